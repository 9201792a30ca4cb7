//! `datasets verify`.

use datasets::registry::{Registry, RegistryError, Report};

use super::progress_bar::BytesBar;
use super::text::{counted, path_line};
use super::{Failure, Outcome};

pub(super) fn run(registry: &Registry, version: Option<&str>) -> Outcome {
    match verify(registry, version) {
        Err(error) => Outcome { text: String::new(), failure: Some(Failure::of(&error)) },
        Ok(report) if report.damages.is_empty() => {
            let (versions, files) = (counted(report.versions, "version"), counted(report.files, "file"));
            Outcome {
                text: format!(
                    "{versions}, {files}, {} bytes: all as added\n{}",
                    report.bytes,
                    md5_only(&report)
                ),
                failure: None,
            }
        }
        Ok(report) => damaged(registry, &report),
    }
}

fn verify(registry: &Registry, version: Option<&str>) -> Result<Report, RegistryError> {
    let reference = version.map(str::parse).transpose()?;
    registry.verify(reference.as_ref(), &BytesBar::new("verify"))
}

/// Notes files that have no recorded BLAKE3.
fn md5_only(report: &Report) -> String {
    if report.md5_only == 0 {
        return String::new();
    }
    format!(
        "only an MD5 vouches for {}, added before there was a BLAKE3: `datasets add` of the same data makes a version with it\n",
        counted(report.md5_only, "file")
    )
}

fn damaged(registry: &Registry, report: &Report) -> Outcome {
    let line = |damage: &datasets::registry::Damage| {
        path_line(&format!("{}  {}  {}", damage.version, damage.path, damage.problem)) + "\n"
    };
    let count = counted(report.damages.len() as u64, "file");
    let line_of_failure = format!(
        "{}: {count} missing or damaged; remove what is damaged and add the same data again, or take it from a copy",
        registry.root().display()
    );
    Outcome {
        text: report.damages.iter().map(line).collect(),
        failure: Some(Failure { line: line_of_failure, code: 3 }),
    }
}
