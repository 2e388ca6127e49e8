//! What the user wants to see, and what keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// By what interfaces are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterfaceOrder {
    /// As the agent names them.
    #[default]
    Run,
    /// Those with the most bits a second first.
    Bits,
    /// Those with the most frames a second first.
    Frames,
    /// By name.
    Name,
}

/// By what flows are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowOrder {
    /// Those with the most bits first.
    #[default]
    Bits,
    /// Those with the most frames first.
    Frames,
    /// By addresses.
    Name,
}

/// The list that the arrows move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum List {
    /// The interfaces.
    #[default]
    Interfaces,
    /// The flows.
    Flows,
}

/// What the user has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The figures stand still.
    pub is_paused: bool,
    /// The help is shown.
    pub is_helping: bool,
    /// Of the interfaces.
    pub interface_order: InterfaceOrder,
    /// Of the flows.
    pub flow_order: FlowOrder,
    /// Which list arrows move.
    pub list: List,
    /// First interface and first flow that are shown.
    pub first: [usize; 2],
    /// Rows of the two lists on the screen.
    pub page: [usize; 2],
    /// How many there are.
    pub count: [usize; 2],
}

/// What a key asks of the program itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing but another picture.
    Draw,
    /// To end.
    Quit,
    /// To stop until the shell says to go on.
    Suspend,
    /// To look at once.
    Look,
}

/// What keys do, for the help.
pub const HELP: [&str; 12] = [
    "q, Esc, Ctrl-C      quit",
    "p, Space            pause, and go on",
    "r                   look now",
    "i                   order of interfaces: as named, bit/s, frame/s, name",
    "f                   order of flows: bit/s, frame/s, addresses",
    "Tab                 which list the arrows move: the one with *",
    "Up, Down            by one",
    "PgUp, PgDn          by a page",
    "Home, End           to the first, to the last",
    "Ctrl-Z              to the shell",
    "h, ?                this help",
    "",
];

impl Wish {
    /// Does what a key says.
    pub fn press(&mut self, key: KeyEvent) -> Act {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        let place = self.list as usize;
        let page = self.page[place].max(1);
        match key.code {
            KeyCode::Char('c') if is_control => return Act::Quit,
            KeyCode::Char('z') if is_control => return Act::Suspend,
            KeyCode::Char(_) if is_control => {}
            KeyCode::Esc | KeyCode::Char('q') if self.is_helping && key.code == KeyCode::Esc => {
                self.is_helping = false;
            }
            KeyCode::Esc | KeyCode::Char('q' | 'Q') => return Act::Quit,
            KeyCode::Char('p' | 'P' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('h' | 'H' | '?') => self.is_helping = !self.is_helping,
            KeyCode::Char('r' | 'R') => return Act::Look,
            KeyCode::Char('i' | 'I') => {
                self.interface_order = match self.interface_order {
                    InterfaceOrder::Run => InterfaceOrder::Bits,
                    InterfaceOrder::Bits => InterfaceOrder::Frames,
                    InterfaceOrder::Frames => InterfaceOrder::Name,
                    InterfaceOrder::Name => InterfaceOrder::Run,
                };
            }
            KeyCode::Char('f' | 'F') => {
                self.flow_order = match self.flow_order {
                    FlowOrder::Bits => FlowOrder::Frames,
                    FlowOrder::Frames => FlowOrder::Name,
                    FlowOrder::Name => FlowOrder::Bits,
                };
            }
            KeyCode::Tab | KeyCode::BackTab => {
                self.list = match self.list {
                    List::Interfaces => List::Flows,
                    List::Flows => List::Interfaces,
                };
            }
            KeyCode::Up => self.first[place] = self.first[place].saturating_sub(1),
            KeyCode::Down => self.first[place] += 1,
            KeyCode::PageUp => self.first[place] = self.first[place].saturating_sub(page),
            KeyCode::PageDown => self.first[place] += page,
            KeyCode::Home => self.first[place] = 0,
            KeyCode::End => self.first[place] = self.count[place],
            _ => {}
        }
        self.stay_within();
        Act::Draw
    }

    /// Keeps the lists' last pages full.
    pub fn stay_within(&mut self) {
        for place in 0..self.first.len() {
            let last = self.count[place].saturating_sub(self.page[place]);
            self.first[place] = self.first[place].min(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(wish: &mut Wish, code: KeyCode) -> Act {
        wish.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn arrows_move_the_chosen_list_within_its_ends() {
        let mut wish = Wish { page: [10, 5], count: [25, 3], ..Wish::default() };
        for (code, first) in [
            (KeyCode::Up, 0),
            (KeyCode::Down, 1),
            (KeyCode::PageDown, 11),
            (KeyCode::PageDown, 15),
            (KeyCode::PageUp, 5),
            (KeyCode::End, 15),
            (KeyCode::Home, 0),
        ] {
            assert_eq!(press(&mut wish, code), Act::Draw);
            assert_eq!(wish.first, [first, 0], "{code:?}");
        }
        press(&mut wish, KeyCode::Tab);
        press(&mut wish, KeyCode::Down);
        assert_eq!(wish.first, [0, 0], "all flows are on the screen");
    }

    #[test]
    fn keys_that_end_and_those_that_do_not() {
        let mut wish = Wish::default();
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(&mut wish, code), Act::Quit);
        }
        let control = |key| KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
        assert_eq!(wish.press(control('c')), Act::Quit);
        assert_eq!(wish.press(control('z')), Act::Suspend);
        assert_eq!(wish.press(control('q')), Act::Draw);
        press(&mut wish, KeyCode::Char('h'));
        assert_eq!((press(&mut wish, KeyCode::Esc), wish.is_helping), (Act::Draw, false));
        press(&mut wish, KeyCode::Char('p'));
        assert!(wish.is_paused);
    }
}
