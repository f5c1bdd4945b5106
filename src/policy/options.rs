//! The policy options of the command line, as typed and as parsed.

use super::bindfs;
use super::error::{Code, Origin, PolicyError, Written, quote};
use super::familiar::{self, Familiar};
use super::glob::PathGlob;
pub use super::names::absolute;
use super::names::{ByName, Lists, Names, side};
use super::parts::Word;
use super::rules::Rule;
use super::spec::{Rules, Spec};
use super::text;
use crate::id::{Disk, Kind, Side as _, View};

/// The names of our own policy options, without dashes.
const OWN: &[&str] = &["map", "names", "prefix", "present-as", "store-as", "unmapped", "hide"];

/// The policy options as typed; nothing in them has been checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The values of `--map`: `[u:|g:]disk:view:count`.
    pub map: Vec<String>,
    /// The values of `--names`: `disk=LIST` and `view=LIST`.
    pub names: Vec<String>,
    /// The value of `--prefix`.
    pub prefix: Option<String>,
    /// Which of `map`, `names` and `prefix` were given, the first one first.
    pub order: Vec<&'static str>,
    /// The value of `--present-as`: `USER[:GROUP]`.
    pub present_as: Option<String>,
    /// The value of `--store-as`: `USER[:GROUP]`.
    pub store_as: Option<String>,
    /// The value of `--unmapped`: `refuse` or `present-as=USER[:GROUP]`.
    pub unmapped: Option<String>,
    /// The values of `--hide`: patterns for paths below the source's root.
    pub hide: Vec<String>,
    /// Options in the spelling of other programs, in the order given.
    pub familiar: Vec<(Familiar, String)>,
}

impl Options {
    /// Takes one option as `-o` has it; `false`: it is no policy option.
    ///
    /// # Errors
    /// An option given twice or without its value, and one whose spelling
    /// means something else in another program.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<bool, PolicyError> {
        if let Some(spelling) = Familiar::by_name(name) {
            let given = match (value, spelling.takes_value()) {
                (Some(value), true) => value,
                (None, false) => "",
                (None, true) => return Err(misused(spelling.name(), "needs a value")),
                (Some(_), false) => return Err(misused(spelling.name(), "takes no value")),
            };
            if spelling.is_list() {
                self.came("names");
            }
            if spelling.is_map() || spelling.is_list() {
                self.came("map");
            }
            self.familiar.push((spelling, given.to_owned()));
            return Ok(true);
        }
        let Some(own) = OWN.iter().find(|own| **own == name) else {
            return familiar::refused(name).map_or(Ok(false), Err);
        };
        let Some(value) = value else { return Err(misused(own, "needs a value")) };
        if matches!(*own, "map" | "names" | "prefix") {
            self.came(own);
        }
        let once = match *own {
            "present-as" => &mut self.present_as,
            "store-as" => &mut self.store_as,
            "unmapped" => &mut self.unmapped,
            "prefix" => &mut self.prefix,
            "names" => {
                self.names.push(value.to_owned());
                return Ok(true);
            }
            "hide" => {
                self.hide.push(value.to_owned());
                return Ok(true);
            }
            _ => {
                self.map.push(value.to_owned());
                return Ok(true);
            }
        };
        if once.is_some() {
            let at = Origin::Option(own);
            return Err(PolicyError::new(Code::Conflict, at, "is given twice"));
        }
        *once = Some(value.to_owned());
        Ok(true)
    }

    /// Notes that a stage was given.
    fn came(&mut self, stage: &'static str) {
        if !self.order.contains(&stage) {
            self.order.push(stage);
        }
    }

    /// Returns the order in which the stages are to be asked.
    fn stages(&self) -> [Word; 4] {
        let mut order = Word::ORDER;
        let place = |word: &Word| self.order.iter().position(|name| *name == word.as_str());
        order.sort_by_key(|word| place(word).unwrap_or(usize::MAX));
        order
    }

    /// Returns the name of a policy option that was given, if any was.
    pub fn first_given(&self) -> Option<&'static str> {
        let once = [
            (!self.map.is_empty(), "map"),
            (!self.names.is_empty(), "names"),
            (self.prefix.is_some(), "prefix"),
            (self.present_as.is_some(), "present-as"),
            (self.store_as.is_some(), "store-as"),
            (self.unmapped.is_some(), "unmapped"),
            (!self.hide.is_empty(), "hide"),
        ];
        let own = once.into_iter().find_map(|(given, name)| given.then_some(name));
        own.or_else(|| self.familiar.first().map(|(spelling, _)| spelling.name()))
    }

    /// Checks that no policy option stands beside a policy file.
    ///
    /// # Errors
    /// The first option that does.
    pub fn beside_file(&self) -> Result<(), PolicyError> {
        self.first_given().map_or(Ok(()), |name| {
            Err(PolicyError::new(Code::Conflict, Origin::Option(name), "not beside a policy file")
                .hint("write it into the file, or leave out --policy"))
        })
    }
}

fn misused(name: &'static str, what: &str) -> PolicyError {
    PolicyError::new(Code::Value, Origin::Option(name), what)
}

impl Spec {
    /// Parses the policy options of a command line.
    ///
    /// # Errors
    /// The first value that cannot be read, an unknown name, rules that
    /// overlap, options that exclude each other.
    pub fn from_options(options: &Options, names: &dyn Names) -> Result<Self, PolicyError> {
        let mut spec = Self::default();
        let at = Origin::Option("map");
        let (theirs, ours): (Vec<&str>, Vec<&str>) =
            options.map.iter().map(String::as_str).partition(|value| bindfs::is_map(value));
        bindfs::map(&mut spec, &at, &theirs, names)?;
        ours.iter().try_for_each(|value| spec.add_extent(&at, value))?;
        if !options.names.is_empty() {
            by_names(&mut spec, &options.names, names)?;
        }
        bindfs::lists(&mut spec, &options.familiar, names)?;
        if let Some(value) = &options.prefix {
            let at = Origin::Option("prefix");
            let stage = ByName::prefix(&at, value, Lists::host())?;
            spec.set_by_name(&at, stage, names)?;
        }
        if let Some(value) = &options.present_as {
            let at = Origin::Option("present-as");
            spec.set_present(&at, text::owner(&at, value, names)?)?;
        }
        if let Some(value) = &options.store_as {
            let at = Origin::Option("store-as");
            spec.set_store(&at, text::owner(&at, value, names)?)?;
        }
        if let Some(value) = &options.unmapped {
            unmapped(&mut spec, &Origin::Option("unmapped"), value, names)?;
        }
        for (spelling, value) in &options.familiar {
            spelling.apply(&mut spec, value, names)?;
        }
        let at = Origin::Option("hide");
        for value in &options.hide {
            let value = Rule::hiding(PathGlob::parse(&at, value)?, &at);
            spec.rules.push(Written { value, at: at.clone() });
        }
        spec.set_order(options.stages());
        map_excludes_present(&spec.users)?;
        map_excludes_present(&spec.groups)?;
        spec.finish()
    }
}

/// Reads the two sides of `--names`.
fn by_names(spec: &mut Spec, values: &[String], names: &dyn Names) -> Result<(), PolicyError> {
    let at = Origin::Option("names");
    let (mut disk, mut view) = (None, None);
    for value in values {
        let (side, lists) = side(&at, value)?;
        let slot = if side == Disk::WORD { &mut disk } else { &mut view };
        if slot.replace(lists).is_some() {
            let what = format!("the {side}'s names are given twice");
            return Err(PolicyError::new(Code::Conflict, at, what));
        }
    }
    let missing = |side: &str| {
        PolicyError::new(Code::Value, at.clone(), format!("says nothing of the {side}"))
            .hint(format!("add --names {side}=host, or where else its names are"))
    };
    let disk = disk.ok_or_else(|| missing(Disk::WORD))?;
    let view = view.ok_or_else(|| missing(View::WORD))?;
    spec.set_by_name(&at, ByName::Names { disk, view }, names)
}

/// Reads `refuse` or `present-as=USER[:GROUP]`.
pub(super) fn unmapped(
    spec: &mut Spec,
    at: &Origin,
    value: &str,
    names: &dyn Names,
) -> Result<(), PolicyError> {
    if value == "refuse" {
        return Ok(());
    }
    let Some(owner) = value.strip_prefix("present-as=") else {
        let what = format!("{} is not a way to treat unmapped ids", quote(value));
        return Err(PolicyError::new(Code::Value, at.clone(), what)
            .hint("write refuse or present-as=USER[:GROUP]"));
    };
    spec.set_unmapped(at, text::owner(at, owner, names)?)
}

/// Refuses what a reader of the command line would take for two answers.
fn map_excludes_present<K: Kind>(rules: &Rules<K>) -> Result<(), PolicyError> {
    let (Some(map), Some(present)) = (rules.map.first(), &rules.present_as) else {
        return Ok(());
    };
    let what = format!("excludes {}: it shows every owner as one", map.at);
    Err(PolicyError::new(Code::Conflict, present.at.clone(), what)
        .hint("for owners outside the map write --unmapped present-as=USER[:GROUP]"))
}
