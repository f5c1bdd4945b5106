//! `idmapfs reload`: a live mount reads its policy again.

use std::io::Write;
use std::path::Path;

use super::fault::Fault;
use crate::control;

/// Has the server of a mount put its policy in force as it is written now, and
/// prints what else there is to say.
///
/// # Errors
/// The policy is wrong, the server cannot be asked, or nothing is mounted there.
pub fn reload(target: &Path, out: &mut dyn Write) -> Result<(), Fault> {
    let told = control::reload(target).map_err(|error| {
        Fault::unasked(error, "to change it umount it, and mount it again with the other policy")
    })?;
    match told {
        Some(said) => Fault::printing(writeln!(out, "idmapfs: {said}")),
        None => Ok(()),
    }
}
