//! `mirror-agent top`: looks at a running agent.
//!
//! It asks the agent again and again ([`agents`]), compares two answers ([`moment`]), and shows what passed between them:
//! [`sections`] are the parts, [`draw`] lays them out on a [`screen`], [`once`] prints them.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ratatui::{
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind},
    text::Line,
    widgets::Paragraph,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    time::{Instant as Deadline, sleep_until},
};

mod agents;
mod draw;
mod figure;
mod keys;
mod moment;
mod once;
mod screen;
mod sections;
mod style;

use self::{
    agents::Target,
    keys::{Act, Wish},
    moment::{Moment, View},
    screen::Screen,
    sections::State,
    style::Look,
};
use crate::{cli::positive_duration, control::client::Agent, status::Status};

/// More often is no use to people, and work for the agent.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Options of `top`.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// The agent to look at: the number of its process, its socket, or the address that it has with --metrics [default:
    /// the one that runs here; of several, a list to choose from]
    #[arg(value_name = "ADDR:PORT|SOCKET|PID", value_parser = str::parse::<Agent>)]
    pub agent: Option<Agent>,
    /// How often to look, at least 100ms
    #[arg(long, value_name = "DURATION", value_parser = interval, default_value = "1s")]
    pub interval: Duration,
    /// Print one table of what passes within an interval, and exit: no terminal is needed
    #[arg(long)]
    pub once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    match positive_duration(text)? {
        short if short < INTERVAL_MIN => Err("must be at least 100ms".into()),
        interval => Ok(interval),
    }
}

/// Shows a running agent until the user quits.
///
/// # Errors
///
/// One line: there is no agent, it does not answer, or there is no terminal.
pub fn run(args: TopArgs) -> Result<()> {
    let (target, others) = match args.agent {
        Some(agent) => {
            agent.status()?;
            (Target::Named(agent), Vec::new())
        }
        None => {
            let all = agents::all()?;
            if args.once && all.len() > 1 {
                let lines: Vec<_> = all.iter().map(|(_, status)| agents::line(status)).collect();
                bail!("several agents run here, name one by its number: {}", lines.join("; "));
            }
            let (agent, _) = all.first().context("no agent runs here")?;
            (Target::Found(agent.clone()), all)
        }
    };
    if args.once {
        return once::run(target.agent(), args.interval);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot look at an agent")?;
    let result = runtime.block_on(show(target, others, args.interval));
    runtime.shutdown_background();
    result
}

/// What comes up while the view is there.
enum News {
    Key(KeyEvent),
    /// The terminal has another size.
    Size,
    /// An answer of the agent, or why there is none.
    Look(Result<Box<Moment>, String>),
    Suspend,
    Continue,
    /// A signal, or the terminal is gone.
    End,
}

async fn show(mut target: Target, others: Vec<(Agent, Status)>, interval: Duration) -> Result<()> {
    // Before the terminal is taken over, so that there is no moment at which they leave it as it is.
    let mut signals = Signals::new().context("cannot wait for signals")?;
    let look = Look::of_environment();
    let mut screen = Screen::open()?;
    let mut keys = read_keys();
    if others.len() > 1 {
        match choose(&mut screen, &mut keys, &mut signals, others).await? {
            Some(agent) => target = Target::Named(agent),
            None => return Ok(()),
        }
    }
    let (sender, mut looks) = unbounded_channel();
    let hurry = Arc::new(Notify::new());
    tokio::spawn(look_again_and_again(target, interval, Arc::clone(&hurry), sender));

    let mut wish = Wish::default();
    let mut view: Option<View> = None;
    // While the figures stand still.
    let mut latest: Option<View> = None;
    let mut lost: Option<(Instant, String)> = None;
    loop {
        let state = match &lost {
            Some((since, why)) => State::Lost { seconds: since.elapsed().as_secs(), why },
            None if wish.is_paused => State::Paused,
            None => State::Live,
        };
        screen.draw(|frame| draw::draw(frame, view.as_ref(), &mut wish, state, look))?;
        let news = tokio::select! {
            news = keys.recv() => news.unwrap_or(News::End),
            news = signals.next() => news,
            news = looks.recv() => news.unwrap_or(News::End),
        };
        match news {
            News::Key(key) => match wish.press(key) {
                Act::Quit => return Ok(()),
                Act::Suspend => screen.suspend()?,
                Act::Look => hurry.notify_one(),
                Act::Draw => {}
            },
            News::Look(Ok(moment)) => {
                lost = None;
                latest = Some(View::next(latest, *moment));
            }
            News::Look(Err(why)) => {
                let since = lost.map_or_else(Instant::now, |(since, _)| since);
                lost = Some((since, why));
            }
            News::Suspend => screen.suspend()?,
            News::Continue => screen.take_again()?,
            News::Size => {}
            News::End => return Ok(()),
        }
        if !wish.is_paused {
            view.clone_from(&latest);
        }
    }
}

async fn look_again_and_again(
    mut target: Target,
    interval: Duration,
    hurry: Arc<Notify>,
    sender: UnboundedSender<News>,
) {
    loop {
        let next = Deadline::now() + interval;
        let moment = look(target.agent()).await;
        if moment.is_err() {
            target.follow_next();
        }
        if sender.send(News::Look(moment.map(Box::new))).is_err() {
            return;
        }
        tokio::select! {
            () = sleep_until(next) => {}
            () = hurry.notified() => {}
        }
    }
}

async fn look(agent: &Agent) -> Result<Moment, String> {
    let status = agent.get_async("/status").await.map_err(|error| format!("{error:#}"))?;
    let status = serde_json::from_slice(&status).map_err(|error| format!("{agent} says: {error}"))?;
    let flows = match agent.get_async("/flows").await {
        Ok(flows) => serde_json::from_slice(&flows).map_err(|error| error.to_string()),
        Err(error) => {
            // Where the agent has ended in between, what was seen before stays, flows and all.
            agent.get_async("/livez").await.map_err(|error| format!("{error:#}"))?;
            Err(format!("{error:#}"))
        }
    };
    Ok(Moment { status, flows, at: Instant::now() })
}

/// Has the user choose one of several agents; `None` where that is none of them.
async fn choose(
    screen: &mut Screen,
    keys: &mut UnboundedReceiver<News>,
    signals: &mut Signals,
    agents: Vec<(Agent, Status)>,
) -> Result<Option<Agent>> {
    let mut chosen = 0;
    loop {
        screen.draw(|frame| {
            let mut lines = vec![
                Line::raw("Several agents run here. Up and Down, then Enter; q quits."),
                Line::default(),
            ];
            // The chosen one is always on the screen.
            let room = usize::from(frame.area().height).saturating_sub(lines.len()).max(1);
            let first = (chosen + 1_usize).saturating_sub(room);
            lines.extend((0..).zip(&agents).skip(first).map(|(number, (_, status))| {
                let mark = if number == chosen { ">" } else { " " };
                Line::raw(format!("{mark} {}", agents::line(status)))
            }));
            frame.render_widget(Paragraph::new(lines), frame.area());
        })?;
        let news = tokio::select! {
            news = keys.recv() => news.unwrap_or(News::End),
            news = signals.next() => news,
        };
        match news {
            News::Key(key) => match key.code {
                KeyCode::Up => chosen = chosen.saturating_sub(1),
                KeyCode::Down => chosen = (chosen + 1).min(agents.len() - 1),
                KeyCode::Enter => return Ok(agents.into_iter().nth(chosen).map(|(agent, _)| agent)),
                _ => match Wish::default().press(key) {
                    Act::Quit => return Ok(None),
                    Act::Suspend => screen.suspend()?,
                    Act::Look | Act::Draw => {}
                },
            },
            News::Suspend => screen.suspend()?,
            News::Continue => screen.take_again()?,
            News::End => return Ok(None),
            News::Size | News::Look(_) => {}
        }
    }
}

/// Reads keys on a thread of its own, which ends with the process: a read cannot be broken off.
fn read_keys() -> UnboundedReceiver<News> {
    let (sender, keys) = unbounded_channel();
    thread::spawn(move || {
        loop {
            let news = match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => News::Key(key),
                Ok(Event::Resize(..)) => News::Size,
                Ok(_) => continue,
                Err(_) => News::End,
            };
            let is_end = matches!(news, News::End);
            if sender.send(news).is_err() || is_end {
                return;
            }
        }
    });
    keys
}

/// The signals that would leave the terminal as it is.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    stop: Signal,
    go_on: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            stop: signal(SignalKind::from_raw(libc::SIGTSTP))?,
            go_on: signal(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }

    async fn next(&mut self) -> News {
        tokio::select! {
            _ = self.interrupt.recv() => News::End,
            _ = self.terminate.recv() => News::End,
            _ = self.hangup.recv() => News::End,
            _ = self.stop.recv() => News::Suspend,
            _ = self.go_on.recv() => News::Continue,
        }
    }
}
