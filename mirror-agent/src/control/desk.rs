//! Where the control plane is asked, in between its other work.
//!
//! One question at a time and only so many a second: whoever asks without end keeps nobody from anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use crate::{flows, metrics::Snapshot};

/// Shortest time between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest time to wait for an answer: shorter than a client waits.
const ANSWER_TIME: Duration = Duration::from_millis(1500);

/// A control plane that has not answered for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);

/// What the control plane can be asked.
#[derive(Debug)]
pub enum Question {
    /// Whether it is there.
    Ping(oneshot::Sender<()>),
    /// How the run goes.
    Snapshot(oneshot::Sender<Result<Box<Snapshot>, String>>),
    /// The busiest flows since this was last asked.
    Flows(oneshot::Sender<flows::answer::Answer>),
}

/// The control plane's end.
#[derive(Debug)]
pub struct Desk {
    questions: mpsc::Receiver<Question>,
    is_open: Arc<AtomicBool>,
}

/// The other end.
#[derive(Debug)]
pub struct Visitor {
    questions: mpsc::Sender<Question>,
    is_open: Arc<AtomicBool>,
    last: Mutex<Last>,
}

/// What came of the last question.
#[derive(Debug)]
struct Last {
    /// When the control plane answered last.
    answered: Instant,
    /// When it was asked last.
    asked: Instant,
    snapshot: Option<(Instant, Arc<Snapshot>)>,
}

/// Both ends.
#[must_use]
pub fn desk() -> (Desk, Visitor) {
    let (sender, questions) = mpsc::channel(1);
    let is_open = Arc::<AtomicBool>::default();
    let now = Instant::now();
    let last = Mutex::new(Last { answered: now, asked: now, snapshot: None });
    let visitor = Visitor { questions: sender, is_open: Arc::clone(&is_open), last };
    (Desk { questions, is_open }, visitor)
}

impl Desk {
    /// Waits for a question that somebody still wants to have answered; for ever where nobody can ask any more.
    pub async fn next(&mut self) -> Question {
        self.is_open.store(true, Ordering::Relaxed);
        loop {
            match self.questions.recv().await {
                Some(Question::Snapshot(reply)) if reply.is_closed() => {}
                Some(Question::Ping(reply)) if reply.is_closed() => {}
                Some(Question::Flows(reply)) if reply.is_closed() => {}
                Some(question) => return question,
                None => std::future::pending().await,
            }
        }
    }
}

impl Visitor {
    /// How the run goes, not longer ago than this was called.
    ///
    /// # Errors
    ///
    /// In one line, why there is no answer.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, String> {
        let wanted = Instant::now();
        let mut last = self.last.lock().await;
        // Somebody else has asked meanwhile.
        if let Some((asked, snapshot)) = &last.snapshot
            && *asked >= wanted
        {
            return Ok(Arc::clone(snapshot));
        }
        let asked = last.pause().await;
        let answer = self.ask(&mut last, Question::Snapshot).await?;
        let snapshot = Arc::<Snapshot>::from(answer?);
        last.snapshot = Some((asked, Arc::clone(&snapshot)));
        Ok(snapshot)
    }

    /// The busiest flows since this was last called, by whomever. They are watched from the first call on, as long as
    /// others follow.
    ///
    /// # Errors
    ///
    /// As for [`Self::snapshot`].
    pub async fn flows(&self) -> Result<flows::answer::Answer, String> {
        let mut last = self.last.lock().await;
        last.pause().await;
        self.ask(&mut last, Question::Flows).await
    }

    /// Finds out whether the control plane does its work.
    ///
    /// # Errors
    ///
    /// It has not answered for half a minute. Before it has begun to, it has time.
    pub async fn ping(&self) -> Result<(), String> {
        if !self.is_open.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut last = self.last.lock().await;
        last.pause().await;
        match self.ask(&mut last, Question::Ping).await {
            Err(_) if last.answered.elapsed() > STUCK => {
                Err(format!("the control plane has not answered for {} s", last.answered.elapsed().as_secs()))
            }
            _ => Ok(()),
        }
    }

    async fn ask<T>(
        &self,
        last: &mut Last,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.questions.send(question(reply)).await.map_err(drop)?;
            answer.await.map_err(drop)
        };
        match timeout(ANSWER_TIME, exchange).await {
            Ok(Ok(answer)) => {
                last.answered = Instant::now();
                Ok(answer)
            }
            Ok(Err(())) => Err("stopping".into()),
            Err(_) if self.is_open.load(Ordering::Relaxed) => Err("busy: ask again".into()),
            Err(_) => Err("starting: nothing is mirrored yet".into()),
        }
    }
}

impl Last {
    /// Waits until the next question may be asked, and gives that time.
    async fn pause(&mut self) -> Instant {
        sleep_until(self.asked + PAUSE).await;
        self.asked = Instant::now();
        self.asked
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn who_asks_at_the_same_time_gets_the_same_answer() {
        runtime().block_on(async {
            let (mut desk, visitor) = desk();
            let asked = async {
                let visitors = futures_util::future::join_all((0..100).map(|_| visitor.snapshot()));
                let all = visitors.await;
                assert!(all.iter().all(Result::is_ok));
                // And a later one another.
                let last = Arc::as_ptr(all[99].as_ref().unwrap());
                assert_ne!(Arc::as_ptr(&visitor.snapshot().await.unwrap()), last);
            };
            let mut questions = 0;
            let answers = async {
                loop {
                    if let Question::Snapshot(reply) = desk.next().await {
                        questions += 1;
                        reply.send(Ok(Box::default())).unwrap();
                    }
                }
            };
            let started = Instant::now();
            tokio::select! { () = asked => {} () = answers => {} }
            assert!(questions <= 3, "{questions}");
            assert!(started.elapsed() >= PAUSE);
        });
    }

    #[test]
    fn who_does_not_answer_is_told_of() {
        runtime().block_on(async {
            let (mut held, visitor) = desk();
            assert!(visitor.snapshot().await.unwrap_err().starts_with("starting"));
            // It has begun, and does nothing.
            held.is_open.store(true, Ordering::Relaxed);
            assert!(visitor.snapshot().await.unwrap_err().starts_with("busy"));
            assert_eq!(visitor.ping().await, Ok(()), "for so short a time");
            // What nobody waits for is not answered.
            let open = held.next();
            tokio::select! { _ = open => panic!("a question") , () = tokio::time::sleep(PAUSE) => {} }
            drop(held);
            assert_eq!(visitor.snapshot().await.unwrap_err(), "stopping");
        });
    }
}
