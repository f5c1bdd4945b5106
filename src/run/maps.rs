//! Writing the id maps of a child's user namespace.

use std::fs;
use std::process::{Command, Stdio};

use nix::unistd::{Pid, getegid, geteuid};

use super::error::RunError;
use crate::sys::id_map::Line;
use crate::text::{escape, plain};

/// The programs of the system that lay ids on subordinate ones: newuidmap(1), newgidmap(1).
pub const USERS: &str = "newuidmap";
/// The same for groups.
pub const GROUPS: &str = "newgidmap";

/// Reports whether a map is one that its owner may write without a helper: the
/// own id alone.
pub fn is_own(lines: &[Line], own: u32) -> bool {
    matches!(lines, [Line { outside, count: 1, .. }] if *outside == own)
}

/// Writes the maps of the user namespace that a child has made.
///
/// # Errors
/// The kernel or the helper refuses.
pub fn write(child: Pid, users: &[Line], groups: &[Line]) -> Result<(), RunError> {
    if is_own(users, geteuid().as_raw()) {
        put(child, "uid_map", &users.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    } else {
        helper(USERS, child, users)?;
    }
    if is_own(groups, getegid().as_raw()) {
        // A process that could leave a group could gain what the group is denied.
        put(child, "setgroups", "deny")?;
        put(child, "gid_map", &groups.iter().map(|line| format!("{line}\n")).collect::<String>())
    } else {
        helper(GROUPS, child, groups)
    }
}

fn put(child: Pid, file: &'static str, text: &str) -> Result<(), RunError> {
    fs::write(format!("/proc/{child}/{file}"), text).map_err(RunError::doing(file))
}

fn helper(program: &'static str, child: Pid, lines: &[Line]) -> Result<(), RunError> {
    let failed = |why| RunError::Helper { program, why };
    let mut command = Command::new(program);
    command.arg(child.to_string()).stdin(Stdio::null());
    for line in lines {
        command.args([line.inside, line.outside, line.count].map(|number| number.to_string()));
    }
    let output = command
        .output()
        .map_err(|error| failed(format!("{}; it comes with the package uidmap", plain(&error))))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    let said = said.strip_prefix(program).unwrap_or(said).trim_start_matches(": ");
    Err(failed(if said.is_empty() { output.status.to_string() } else { escape(said) }))
}
