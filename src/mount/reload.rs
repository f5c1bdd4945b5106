//! A new policy for a mount that is served: by SIGHUP, or asked for on the
//! control socket.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use super::describe::{self, Made};
use super::error::MountError;
use super::namespace;
use super::options::Renew;
use super::stand_in;
use crate::control::{self, Answers, Facts, Outcome, Published, Record, Stats};
use crate::fs::{Fs, StandIn};
use crate::fuse::{Notifier, Refreshed};
use crate::policy::{Pipeline, Server, Spec};
use crate::sync::lock;
use crate::sys::cred::own_ids;

/// How long whoever asked for a reload waits for the kernel to be told.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the end of a server waits for what the kernel is being told.
const GRACE: Duration = Duration::from_secs(1);

/// What is said of a reload that is in force before the kernel knows it.
const GOES_ON: &str = "the new policy is in force; the kernel is still being told, and may show \
                       what it knows until then";

/// Makes a policy fit for this server, with what stands for unmapped ids.
///
/// `any_owner` says whether the server may store files of any owner, `process`
/// is a process in the user namespace of the mount, by its name in `/proc`.
///
/// # Errors
/// If the policy does not fit, or this process has no ids of its own.
pub(super) fn decide(
    spec: &Spec,
    any_owner: bool,
    process: &str,
) -> Result<(Pipeline, StandIn), MountError> {
    let ids = own_ids().map_err(MountError::doing("own ids"))?;
    let policy = spec.build(&Server { ids, privileged: any_owner })?;
    let failed = MountError::doing("user namespace");
    for (kind, shown) in [("uid", policy.presentable_users()), ("gid", policy.presentable_groups())]
    {
        if let Some(missing) = namespace::missing(process, kind, &shown).map_err(&failed)? {
            log::warn!("{missing}");
        }
    }
    let stand_in =
        stand_in::choose(&policy, process).map_err(MountError::doing("user namespace"))?;
    Ok((policy, stand_in))
}

/// Replaces the policy of a mount that this process serves.
#[derive(Debug)]
pub(super) struct Reloader {
    renew: Renew,
    any_owner: bool,
    /// A process in the user namespace of the mount, by its name in `/proc`.
    process: String,
    fs: Arc<Fs>,
    notifier: Notifier,
    /// What is said of the mount.
    facts: Mutex<Facts>,
    /// Why the kernel could not do what the options ask for, but for the policy.
    options_beyond: Option<String>,
    /// Whether an overlay is what callers see: it keeps owners that it has seen.
    covered: bool,
    /// Held for as long as a policy is replaced, so that the one that is read
    /// last is in force, and known to be.
    published: Mutex<Option<Published>>,
}

/// What the control socket asks.
#[derive(Debug)]
struct Desk(Weak<Reloader>);

impl Answers for Desk {
    fn reload(&self) -> Option<Outcome> {
        self.0.upgrade().map(|reloader| reloader.reload())
    }

    fn facts(&self) -> Option<Facts> {
        self.0.upgrade().map(|reloader| reloader.facts())
    }

    fn stats(&self) -> Option<Stats> {
        self.0.upgrade().map(|reloader| reloader.stats())
    }
}

impl Reloader {
    /// Makes one for a mount, its file system, and the session that serves it.
    pub(super) fn new(made: &Made<'_>, fs: Arc<Fs>, notifier: Notifier) -> Arc<Self> {
        let renew = made.options.renew.clone();
        let facts = Mutex::new(describe::facts(made));
        Arc::new(Self {
            renew,
            any_owner: made.source.any_owner,
            process: made.process.to_owned(),
            fs,
            notifier,
            facts,
            options_beyond: describe::options_beyond(made),
            covered: made.options.upper.is_some(),
            published: Mutex::new(None),
        })
    }

    /// Says what the mount is by now.
    pub(super) fn facts(&self) -> Facts {
        let mut facts = lock(&self.facts).clone();
        if let Some(why) = self.fs.watched_now(&facts.cache.why) {
            facts.cache.why = why;
        }
        facts
    }

    /// Says what was done, and what is held.
    pub(super) fn stats(&self) -> Stats {
        describe::stats(&self.fs)
    }

    /// Makes the mount known, until [`Reloader::end`], with a socket on which it can be asked.
    pub(super) fn publish(self: &Arc<Self>, record: Record) {
        let desk = Desk(Arc::downgrade(self));
        let private = record.target.is_none();
        // Held, so that a reload comes after what is published now.
        let mut place = lock(&self.published);
        match control::publish(record, desk) {
            Ok(published) => *place = Some(published),
            // Who runs a command may never want to know.
            Err(error) if private => log::info!("control: {error}; this server cannot be asked"),
            Err(error) => log::warn!(
                "control: {error}; idmapfs abort works from the mount table only, and a reload \
                 takes SIGHUP"
            ),
        }
    }

    /// Starts the thread that reloads whenever something is sent.
    ///
    /// # Errors
    /// If no thread can be had.
    pub(super) fn listen(self: &Arc<Self>) -> io::Result<SyncSender<()>> {
        let (sender, asked) = sync_channel(1);
        let reloader = Arc::downgrade(self);
        thread::Builder::new().name("reload".to_owned()).spawn(move || {
            while let (Ok(()), Some(reloader)) = (asked.recv(), reloader.upgrade()) {
                // Logged, and there is nobody else to tell.
                let (Ok(_) | Err(_)) = reloader.reload();
            }
        })?;
        Ok(sender)
    }

    /// Reads the policy again, puts it in force, and has the kernel ask for all
    /// that it knows; returns what else there is to say. It is logged, too.
    ///
    /// # Errors
    /// What is wrong, in one line; the old policy stays.
    fn reload(&self) -> Outcome {
        match self.replace() {
            Err(error) => {
                log::error!("reload: {error}; the policy stays as it was");
                Err(error)
            }
            Ok(policy) => {
                let said = match self.notifier.all(PATIENCE) {
                    Refreshed::All => None,
                    Refreshed::GoesOn => Some(GOES_ON.to_owned()),
                };
                log::info!("reloaded: {policy}");
                if let Some(said) = &said {
                    log::warn!("reload: {said}");
                }
                Ok(said)
            }
        }
    }

    /// Puts the policy in force as it is written now; returns its words.
    fn replace(&self) -> Result<String, String> {
        if self.covered {
            return Err(
                "option upper: the overlay keeps owners as it saw them; umount, and mount \
                        with the new policy"
                    .to_owned(),
            );
        }
        let published = lock(&self.published);
        let spec = self.renew.read()?;
        let (policy, stand_in) =
            decide(&spec, self.any_owner, &self.process).map_err(|error| error.to_string())?;
        self.fs.replace(Arc::new(policy), stand_in).map_err(|_unsupported| {
            let what = if self.fs.is_alone() {
                "has rules, and with cache=exclusive the kernel opens files without asking"
            } else {
                "makes the view depend on the caller, or no longer"
            };
            format!("this policy {what}: that takes another mount; umount, and mount with it")
        })?;
        let words = spec.describe();
        let beyond = describe::beyond_kernel(self.options_beyond.clone(), &spec);
        {
            let mut facts = lock(&self.facts);
            facts.policy.clone_from(&words);
            facts.beyond_kernel = beyond;
        }
        if let Some(Err(error)) = published.as_ref().map(|published| published.describe(&words)) {
            log::warn!("control: {error}");
        }
        Ok(words)
    }

    /// Has the mount known no more, and ends what the kernel is being told: the server is
    /// about to end.
    pub(super) fn end(&self) {
        // Who reloads has it, and may wait for names: what is left then is seen to be stale.
        if let Ok(mut published) = self.published.try_lock() {
            drop(published.take());
        }
        self.notifier.end(GRACE);
    }
}
