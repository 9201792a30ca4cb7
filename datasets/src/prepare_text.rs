//! Makes the data plan of text.

use std::path::{Path, PathBuf};

use configs::OnBad;

use crate::error::DataError;
use crate::files::{entry_of, list};
use crate::format::{Format, Skipped, Text, TokenizerFile};
use crate::formats::text;
use crate::listing::FileEntry;
use crate::plan::{DataPlan, Output};
use crate::prepare::{FoundData, PlanParts, parted};
use crate::rounding::settled;
use crate::split::held_out;
use crate::tokenizer::{TextTokenizer, TokenizerRead};

/// Result of scanning the files.
#[derive(Default)]
struct TextScan {
    files: Vec<FileEntry>,
    /// Size of the files that are text.
    bytes: u64,
    tokens: u64,
    /// Token numbers, if there is a tokenizer.
    numbers: Vec<u32>,
    skipped: Skipped,
}

impl FoundData<'_> {
    pub(crate) fn text(&self) -> Result<DataPlan, DataError> {
        let is_folder = self.path.is_dir();
        let (root, paths) = if is_folder {
            (self.path.clone(), list(&self.path)?)
        } else {
            let (root, name) = parted(&self.path);
            (root, vec![name])
        };
        if !paths.iter().any(|path| !is_folder || text::is_text(path)) {
            return self.refuse("there is no .txt file in this folder".to_owned());
        }
        let tokenizer = self.tokenizer()?;
        let mut seen = TextScan::default();
        for path in &paths {
            let is_text = !is_folder || text::is_text(path);
            self.look(&root, path, is_text, tokenizer.as_ref().map(|(_, read)| &read.tokenizer), &mut seen)?;
        }
        let window = self.config.window;
        let (rows, tail) = text::windows(seen.tokens, window);
        self.check(&seen, rows, tokenizer.is_some())?;
        let tokenizer = tokenizer.map(|(path, read)| TokenizerFile {
            path: path.canonicalize().unwrap_or(path).display().to_string(),
            md5: read.md5,
            bytes: read.bytes,
            vocabulary: read.tokenizer.vocabulary(),
            tokens_hash: text::hash(&seen.numbers),
        });
        let vocabulary = tokenizer.as_ref().map_or(text::VOCABULARY, |tokenizer| tokenizer.vocabulary);
        let (tokens, bytes, skipped) = (seen.tokens, seen.bytes, seen.skipped);
        Ok(self.plan(PlanParts {
            root: if is_folder { root } else { self.path.clone() },
            is_folder,
            files: seen.files,
            rows,
            form: Format::Text(Text { window, tokens, tail, bytes, tokenizer, skipped }),
            output: Output::Tokens { vocabulary, window },
            image_shape: None,
            label_counts: Vec::new(),
        }))
    }

    /// Loads the configured tokenizer, from the working directory or the configuration's folder.
    fn tokenizer(&self) -> Result<Option<(PathBuf, TokenizerRead)>, DataError> {
        let Some(plain) = &self.config.tokenizer else { return Ok(None) };
        let beside = self.config_dir.map(|dir| dir.join(plain)).filter(|path| path != plain);
        let candidates = [Some(plain.clone()), beside];
        let Some(path) = candidates.iter().flatten().find(|path| path.is_file()) else {
            let tried: Vec<String> =
                candidates.iter().flatten().map(|path| path.display().to_string()).collect();
            let problem = format!("no such file (looked for {})", tried.join(", "));
            return Err(DataError::File {
                file: format!("dataset.tokenizer = {:?}", plain.display()),
                problem,
            });
        };
        TextTokenizer::read(path, &self.memory).map(|read| Some((path.clone(), read)))
    }

    /// Counts the tokens of a file.
    fn look(
        &self,
        root: &Path,
        path: &str,
        is_text: bool,
        tokenizer: Option<&TextTokenizer>,
        seen: &mut TextScan,
    ) -> Result<(), DataError> {
        let Some(tokenizer) = tokenizer.filter(|_| is_text) else {
            let entry = entry_of(root, path)?;
            if is_text {
                seen.bytes += entry.bytes;
                seen.tokens += entry.bytes;
            }
            seen.files.push(entry);
            return Ok(());
        };
        match tokenizer.encode_file(&root.join(path), &mut seen.numbers, &self.memory) {
            Ok(digests) => {
                seen.bytes += digests.bytes;
                seen.files.push(FileEntry::new(path.to_owned(), digests));
            }
            // A file that isn't text is skipped as a whole: half of it would be no document.
            Err(DataError::Byte { .. }) if self.config.on_bad == OnBad::Skip => {
                seen.numbers.truncate(seen.tokens as usize);
                seen.skipped.count += 1;
                seen.skipped.listed.push(path.to_owned());
                seen.files.push(entry_of(root, path)?);
            }
            Err(why) => return Err(why),
        }
        seen.tokens = seen.numbers.len() as u64;
        Ok(())
    }

    /// Checks that there is enough text.
    fn check(&self, seen: &TextScan, rows: u64, is_tokenized: bool) -> Result<(), DataError> {
        let window = self.config.window;
        let least = u64::from(window) + 1;
        let what = if is_tokenized {
            format!("{} tokens of text", seen.tokens)
        } else {
            format!("{} bytes of text", seen.tokens)
        };
        if rows == 0 {
            return self.refuse(format!(
                "{what}, where a window of {window} tokens and the token after it take {least}: set a smaller \
                 dataset.window"
            ));
        }
        if held_out(rows, settled(self.config.validation)) == 0 && self.config.validation > 0.0 {
            return self.refuse(format!(
                "{what} are {rows} windows of {window} tokens, too few to hold out dataset.validation = {} of them: set \
                 a smaller dataset.window",
                self.config.validation
            ));
        }
        Ok(())
    }
}
