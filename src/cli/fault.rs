//! Why a command ends without doing what was asked, and with which status.

use std::fmt;

use crate::control::ControlError;
use crate::mount::MountError;
use crate::policy::PolicyError;
use crate::run::RunError;
use crate::text::escape;

/// The exit status of a failure, as mount(8) reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command line or the configuration is wrong.
    Usage,
    /// The mount, or the operation on it, failed.
    Mount,
    /// A command could not be run: the status of shells.
    Command(u8),
}

impl Exit {
    /// Returns the number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Usage => 1,
            Self::Mount => 32,
            Self::Command(code) => code,
        }
    }
}

/// A failure: one line that names the thing, a hint on the way out, a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The exit status.
    pub exit: Exit,
    /// What is wrong.
    pub text: String,
    /// What can be done about it.
    pub hint: Option<String>,
}

impl Fault {
    /// Makes a failure of the command line or the configuration.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, text: text.into(), hint: None }
    }

    /// Makes a failure of the mount.
    pub fn mount(text: impl Into<String>) -> Self {
        Self { exit: Exit::Mount, text: text.into(), hint: None }
    }

    /// Makes a failure to ask the server of a mount, with the way out where it is a
    /// mount of the kernel and has none.
    pub fn unasked(error: ControlError, of_kernel: &str) -> Self {
        let is_kernels = matches!(error, ControlError::Kernel(_));
        let fault = Self::from(error);
        if is_kernels { fault.hint(of_kernel) } else { fault }
    }

    /// Turns what came of printing into a result; a reader that has seen
    /// enough is no failure.
    ///
    /// # Errors
    /// Whatever else keeps the output from being written.
    pub fn printing(done: std::io::Result<()>) -> Result<(), Self> {
        match done {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Self::mount(format!("standard output: {error}")))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<PolicyError> for Fault {
    fn from(error: PolicyError) -> Self {
        let fault = Self::usage(format!("{}: {}", error.at, error.what));
        match error.hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}

impl From<MountError> for Fault {
    fn from(error: MountError) -> Self {
        let exit = if error.exit_code() == 1 { Exit::Usage } else { Exit::Mount };
        Self { exit, text: error.to_string(), hint: None }
    }
}

impl From<RunError> for Fault {
    fn from(error: RunError) -> Self {
        let exit = match error.exit_code() {
            1 => Exit::Usage,
            32 => Exit::Mount,
            code => Exit::Command(code),
        };
        Self { exit, text: error.to_string(), hint: None }
    }
}

impl From<ControlError> for Fault {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Refused(why) => Self::usage(why),
            ControlError::Nowhere(_)
            | ControlError::Unsafe(_)
            | ControlError::File { .. }
            | ControlError::Unknown(_)
            | ControlError::Kernel(_)
            | ControlError::Ask { .. }
            | ControlError::Abort { .. } => Self::mount(error.to_string()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.text))?;
        match &self.hint {
            Some(hint) => write!(f, " ({})", escape(hint)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}
