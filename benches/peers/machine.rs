//! What was measured on, and with which programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::utsname::uname;
use serde::Serialize;

use crate::args::Args;
use crate::mounts::{How, KINDS};
use crate::place::Place;

/// What was measured on, and with which programs.
#[derive(Debug, Serialize)]
pub struct Machine {
    kernel: String,
    cpu: String,
    processors: usize,
    memory_mib: u64,
    disk: String,
    files: usize,
    files_memory: usize,
    rounds: usize,
    programs: Vec<String>,
}

impl Machine {
    /// Asks what there is.
    pub fn new(place: &Place, args: &Args) -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let value = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or("?").trim_start_matches([' ', '\t', ':']).to_owned()
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        let memory = memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) >> 10;
        Self {
            kernel: uname().map(|name| name.release().display().to_string()).unwrap_or_default(),
            cpu: value(&read("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory,
            disk: disk(place, args),
            files: args.files,
            files_memory: args.memory,
            rounds: args.rounds,
            programs: programs(&place.program),
        }
    }

    /// Returns it in a few words.
    pub fn title(&self) -> String {
        format!(
            "Linux {}, {}, {} processors, {}",
            self.kernel, self.cpu, self.processors, self.disk
        )
    }

    /// Returns it in a few sentences.
    pub fn describe(&self) -> String {
        format!(
            "Kernel {}, {}, {} processors, {} MiB of memory, {}. {} files in 200 directories, \
             medians of {} rounds; server memory after {} files. {}.",
            self.kernel,
            self.cpu,
            self.processors,
            self.memory_mib,
            self.disk,
            self.files,
            self.rounds,
            self.files_memory,
            self.programs.join(", "),
        )
    }
}

fn disk(place: &Place, args: &Args) -> String {
    if args.dir.is_none() {
        return "ext4 on a loop device".to_owned();
    }
    let output = Command::new("findmnt").args(["-no", "FSTYPE", "-T"]).arg(&place.disk).output();
    let name = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("{} of a given directory", name.unwrap_or_default())
}

/// What the programs say of their versions, one line each.
fn programs(ours: &Path) -> Vec<String> {
    let peers = KINDS.iter().filter_map(|kind| match kind.how {
        How::Peer(program, _) => Some(Path::new(program)),
        How::Native | How::Kernel | How::Ours(_) | How::Rootless => None,
        How::Floor(_) | How::Loop | How::Image(..) => None,
    });
    let all = std::iter::once(ours).chain(peers).chain([Path::new("git")]);
    all.filter_map(version).collect()
}

fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let name = program.file_name()?.to_string_lossy().into_owned();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(&name))?;
    Some(line.replace(": version", "").replace(" version", "").replace(':', ""))
}
