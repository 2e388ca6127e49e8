//! libpcap's compiler: the language that tcpdump has, and what each expression means, are what it says.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint},
    ptr, slice,
    sync::{Mutex, PoisonError},
};

use super::classic::{Insn, Program};

/// `DLT_EN10MB` of pcap/dlt.h: plain Ethernet, so that programs know nothing of Linux's metadata and read a tag where
/// it was on the wire.
const ETHERNET: c_int = 1;
/// `MAXIMUM_SNAPLEN` of libpcap: what a program returns for a frame that it takes, which means nothing here.
const SNAPLEN: c_int = 262_144;
/// As tcpdump has it where it reads a capture: an interface's mask is not known, and `ip broadcast` is to all ones, or
/// all zeros.
const NETMASK: c_uint = 0;

/// `pcap_t`
#[repr(C)]
struct Handle {
    _opaque: [u8; 0],
}

/// `struct bpf_program` of pcap/bpf.h
#[repr(C)]
struct BpfProgram {
    len: c_uint,
    insns: *mut Insn,
}

unsafe extern "C" {
    fn pcap_open_dead(linktype: c_int, snaplen: c_int) -> *mut Handle;
    fn pcap_compile(
        handle: *mut Handle,
        program: *mut BpfProgram,
        text: *const c_char,
        optimize: c_int,
        netmask: c_uint,
    ) -> c_int;
    fn pcap_geterr(handle: *mut Handle) -> *const c_char;
    fn pcap_freecode(program: *mut BpfProgram);
    fn pcap_close(handle: *mut Handle);
    fn bpf_image(insn: *const Insn, number: c_int) -> *const c_char;
}

/// The compiler, for Ethernet.
pub struct Compiler(*mut Handle);

impl Compiler {
    /// Makes one.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: the call has no preconditions. It returns null where there is no memory, as `compile` finds out.
        Self(unsafe { pcap_open_dead(ETHERNET, SNAPLEN) })
    }

    /// Compiles and optimises an expression; the empty one takes every frame.
    ///
    /// The caller sees to it that no word is the name of a host or a network: libpcap would ask for its address.
    ///
    /// # Errors
    ///
    /// What libpcap says, without its introduction.
    pub fn compile(&self, expression: &str) -> Result<Program, String> {
        if self.0.is_null() {
            return Err("out of memory".into());
        }
        let text = CString::new(expression).map_err(|_| "a byte of zero".to_owned())?;
        let mut program = BpfProgram { len: 0, insns: ptr::null_mut() };
        // SAFETY: all pointers are to live values; libpcap copies what it keeps of the text.
        let result = unsafe { pcap_compile(self.0, &raw mut program, text.as_ptr(), 1, NETMASK) };
        if result != 0 {
            // SAFETY: the handle is live, and its message is a string that ends with a zero.
            let message = unsafe { CStr::from_ptr(pcap_geterr(self.0)) }.to_string_lossy().into_owned();
            return Err(message.trim_start_matches("can't parse filter expression: ").to_owned());
        }
        // SAFETY: libpcap says how many instructions there are, and they stay until they are given back.
        let insns = unsafe { slice::from_raw_parts(program.insns, program.len as usize) }.to_vec();
        // SAFETY: the program is libpcap's, and is given back once.
        unsafe { pcap_freecode(&raw mut program) };
        Ok(Program::new(insns))
    }
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the handle is live, and closed once.
            unsafe { pcap_close(self.0) };
        }
    }
}

/// An instruction as `tcpdump -d` shows it.
#[must_use]
pub fn image(insn: &Insn, number: usize) -> String {
    /// The text is in one place for all callers.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the instruction is live, and what is returned is a string that stays until the next call.
    unsafe { CStr::from_ptr(bpf_image(insn, number as c_int)) }.to_string_lossy().into_owned()
}
