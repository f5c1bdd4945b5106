//! What the command line asks about images.

use std::ffi::OsString;
use std::path::PathBuf;

use super::super::commands::{image_command, matched};
use super::super::dash_o::{self, Unknown};
use super::super::fault::Fault;
use super::super::form::Form;
use super::super::options::Area;
use super::super::request::Request;
use super::super::settings::Settings;
use super::{Build, Image};
use crate::mount::ImageOptions;
use crate::text::shown;

/// Reads the arguments of `idmapfs image`.
///
/// # Errors
/// They are none that it takes.
pub fn ask(args: Vec<OsString>) -> Result<Request, Fault> {
    const AREAS: &[Area] = &[Area::Image, Area::Owners];
    let args = dash_o::rewrite(args, "hV", AREAS, Unknown::Refuse)?;
    let matches = match matched(image_command(), args)? {
        Ok(matches) => matches,
        Err(text) => return Ok(Request::Print(text)),
    };
    let action = matches.get_one::<String>("action").map_or("", String::as_str);
    let paths: Vec<PathBuf> = matches.get_many("path").into_iter().flatten().cloned().collect();
    let more: Vec<OsString> = matches.get_many("more").into_iter().flatten().cloned().collect();
    let settings = Settings::of(&matches, AREAS)?;
    let json = matches.get_flag("json");
    let of_owners = settings.owners.is_some() || settings.owners_dir.is_some();
    let misplaced = match action {
        "info" if of_owners => Some("owners"),
        "info" if !more.is_empty() => Some("--"),
        "build" if json => Some("json"),
        "build" if settings.image != ImageOptions::default() => {
            Some("offset, size, device, partition, verity or replaced")
        }
        _ if settings.upper.is_some() => Some("upper"),
        _ => None,
    };
    if let Some(option) = misplaced {
        return Err(Fault::usage(format!("option {option} does not go with image {action}")));
    }
    match (action, paths.as_slice()) {
        ("info", [file]) => Ok(Request::Image(Image::Info {
            file: file.clone(),
            options: settings.image,
            form: if json { Form::Json } else { Form::Text },
        })),
        ("build", [from, to]) => {
            let owners = super::super::mount::owners(&settings)?;
            let (from, to) = (from.clone(), to.clone());
            Ok(Request::Image(Image::Build(Build { from, to, owners, more })))
        }
        ("info", _) => Err(Fault::usage("image info: one file is needed")),
        ("build", _) => Err(Fault::usage("image build: a directory or a tar, and an image")
            .hint("for example: idmapfs image build DIR OUT.erofs")),
        (other, _) => {
            let line = format!("image: no such action {}", shown(other));
            Err(Fault::usage(line).hint("info or build"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Partition;

    fn asked(words: &[&str]) -> Result<Request, Fault> {
        ask(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn where_an_image_is_can_be_said_in_both_forms() {
        let list = "offset=4K,size=1M,device=/d,partition=2,verity=ignore";
        let long = list.split(',').map(|item| format!("--{item}")).collect::<Vec<_>>();
        let long = long.iter().map(String::as_str);
        let long: Vec<_> = ["image", "info", "FILE"].into_iter().chain(long).collect();
        let both = asked(&["image", "info", "-o", list, "FILE"]);
        assert_eq!(both, asked(&long));
        let Ok(Request::Image(Image::Info { options, .. })) = both else { panic!("{both:?}") };
        assert_eq!(options.partition, Some(Partition::Number(2)));
        assert!(options.verity_ignored && options.devices == [PathBuf::from("/d")]);
        for wrong in ["ro", "upper=/u", "owners=xattr", "offset"] {
            asked(&["image", "info", "-o", wrong, "FILE"]).unwrap_err();
        }
    }
}
