//! What the end-to-end tests are made of: hosts, links, traffic, and a sensor to compare bytes at.
//!
//! Every test makes its own hosts (network namespaces), runs the real `mirror-agent` in them and looks at
//! what arrives. Nothing leaves the machine. The tests need root, and Debian's `iproute2 iputils-ping
//! tcpdump tshark ethtool bpftool curl python3 python3-scapy tcpreplay iperf3 tmux zstd gzip systemd mandoc
//! util-linux`.
//!
//! | module | what it gives |
//! |---|---|
//! | [`host`], [`link`], [`lab`] | namespaces, veth pairs, the usual client - router - sensor |
//! | [`frames`], [`generator`] | frames that a receiver can make again from their number, and their sender |
//! | [`super_frames`] | frames that are to be cut, from a packet socket |
//! | [`connections`] | segments of many TCP connections, which say whose they are |
//! | [`injector`] | the fastest generator: frames that an interface receives |
//! | [`sensor`], [`check`] | the receiving end, and the comparison of what it got |
//! | [`agent`], [`report`] | the program under test, and its JSON report |
//! | [`confined`] | the program with some capabilities only |
//! | [`capture`], [`pcap`], [`tshark`], [`suricata`], [`tap`] | other people's eyes on the same traffic |
//! | [`captures`], [`replay`] | captures of every format, right and damaged, and their replay |
//! | [`wire`], [`flows`], [`analysis`] | what was on the wire, by the kernel itself, its comparison with the mirror, and what tshark finds wrong |
//! | [`filters`] | expressions and frames, and what tcpdump makes of them |
//! | [`prometheus`] | curl, Prometheus and promtool at the agent's metrics |
//! | [`web`] | a web server to download from |
//! | [`tmux`] | a terminal to look at and to type into |
//! | [`mirred`] | the kernel's own mirror, to compare with |
//! | [`swarm`] | many interfaces that come and go |
//! | [`holdings`] | what an agent holds in the kernel |
//! | [`doctor`] | findings of `mirror-agent doctor`, and the commands that it prints |
//! | [`bpf`] | another program's TCX hook, to live beside |
//! | [`manifests`] | what checks the files of deploy/kubernetes and deploy/compose |
//! | [`bench`] | the comparison with other mirrors, `cargo xtask bench` |
//! | [`lock`], [`scratch`], [`command`] | one load test at a time, scratch folders, commands that must succeed |

// A helper that fails has to fail the test that called it, at once and with what went wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers fail by panicking")]

pub mod agent;
pub mod analysis;
pub mod bench;
pub mod bpf;
pub mod capture;
pub mod captures;
pub mod check;
pub mod command;
pub mod confined;
pub mod connections;
pub mod doctor;
pub mod etc;
pub mod filters;
pub mod flows;
pub mod frames;
pub mod generator;
pub mod geneve;
pub mod holdings;
pub mod host;
pub mod injector;
pub mod lab;
pub mod link;
pub mod lock;
pub mod manifests;
pub mod mirred;
pub mod packet_socket;
pub mod pcap;
pub mod pool;
pub mod prometheus;
pub mod replay;
pub mod report;
pub mod scratch;
pub mod sensor;
pub mod super_frames;
pub mod suricata;
pub mod swarm;
pub mod tap;
pub mod tmux;
pub mod tshark;
pub mod vxlan;
pub mod web;
pub mod wire;
