//! Tokenised text.

mod support;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use configs::OnBad;
use datasets::{DataPlan, Dataset, Decoding, Format, Output, TextTokenizer};
use proptest::prelude::*;
use support::*;
use tokenizers::Tokenizer;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

const TEXT: &str = "the cat sat on the mat and the dog sat on the cat\n";

/// A byte-level BPE of at most 290 tokens, like those of language models: any text round-trips.
fn trained() -> String {
    static JSON: OnceLock<String> = OnceLock::new();
    JSON.get_or_init(train).clone()
}

fn train() -> String {
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let trainer = BpeTrainer::builder()
        .vocab_size(290)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut trainer = TrainerWrapper::from(trainer);
    tokenizer.train(&mut trainer, std::iter::repeat_n(TEXT, 20)).expect("trained");
    tokenizer.to_string(false).expect("JSON")
}

/// A configuration of text with a tokenizer next to it.
fn place(dir: &tempfile::TempDir, text: &[u8]) -> configs::Dataset {
    let path = write(dir.path(), "t.txt", text);
    let tokenizer = write(dir.path(), "tokenizer.json", trained().as_bytes());
    configs::Dataset { window: 8, tokenizer: Some(tokenizer), ..config("text", &path) }
}

fn json_of(config: &configs::Dataset) -> PathBuf {
    config.tokenizer.clone().expect("a tokenizer")
}

#[test]
fn windows_are_of_the_tokenizers_tokens() {
    let dir = folder();
    let text = TEXT.repeat(30);
    let config = place(&dir, text.as_bytes());
    let (plan, dataset) = open(&config);
    let tokenizer =
        TextTokenizer::parse(&std::fs::read(json_of(&config)).expect("read")).expect("a tokenizer");
    let expected = tokenizer.encode(&text).expect("encoded");
    assert!(expected.len() * 2 < text.len(), "frequent pairs are one token");
    assert_eq!(plan.output, Output::Tokens { vocabulary: tokenizer.vocabulary(), window: 8 });
    let Format::Text(form) = &plan.form else { panic!("text") };
    assert_eq!((form.tokens, form.bytes), (expected.len() as u64, text.len() as u64));
    assert!((plan.bytes_per_token() - text.len() as f64 / expected.len() as f64).abs() < 1e-12);
    let (training, validation) = epoch(&dataset, KEY);
    let inputs = [training.tokens, validation.tokens].concat();
    let targets = [training.labels, validation.labels].concat();
    let used = plan.rows as usize * 8;
    assert_eq!(inputs, expected[..used]);
    assert_eq!(targets, expected[1..=used]);
    assert_eq!(
        tokenizer.decode(&inputs).expect("text"),
        text[..tokenizer.decode(&inputs).expect("text").len()]
    );
    assert_eq!(dataset.tokenizer_json(), Some(trained().as_str()));
    assert_eq!(plan.normalisation(dataset.tokenizer_json())["tokens"]["tokenizer"], trained());
}

#[test]
fn the_tokenizer_is_part_of_what_the_data_are() {
    let dir = folder();
    let config = place(&dir, TEXT.repeat(30).as_bytes());
    let plan = DataPlan::prepare(&config, None).expect("planned");
    let bytes =
        DataPlan::prepare(&configs::Dataset { tokenizer: None, ..config.clone() }, None).expect("planned");
    assert_eq!(plan.digest, bytes.digest, "the text is the same");
    assert_eq!(bytes.identity(), bytes.digest);
    assert_ne!(plan.identity(), bytes.identity());
    // Workers may keep it elsewhere: next to the data, under its digest.
    let elsewhere = folder();
    let copy = write(elsewhere.path(), "copy", TEXT.repeat(30).as_bytes());
    let json = json_of(&config);
    let moved =
        write(elsewhere.path(), &plan.tokenizer().expect("one").md5, &std::fs::read(&json).expect("read"));
    std::fs::write(&json, [trained().as_bytes(), b"\n"].concat()).expect("written");
    let dataset = Dataset::open(&plan, &copy).expect("opened with the copy");
    assert_eq!(dataset.training_len() + dataset.evaluation_len(), plan.rows);
    let said = Dataset::open(&plan, Path::new(&plan.path)).expect_err("changed").to_string();
    assert!(said.contains("tokenizer.json has changed since the run was started"), "{said}");
    // A plan that records other tokens is refused, even if their number matches.
    let mut other = plan.clone();
    let Format::Text(form) = &mut other.form else { panic!("text") };
    form.tokenizer.as_mut().expect("one").tokens_hash = "0".repeat(16);
    let said = Dataset::open(&other, &copy).expect_err("refused").to_string();
    assert!(said.contains("makes other tokens of this text here"), "{said}");
    drop(moved);
}

#[test]
fn text_that_is_not_utf8_is_refused_at_its_byte_or_left_out() {
    let dir = folder();
    let config = place(&dir, TEXT.repeat(30).as_bytes());
    let root = dir.path().join("folder");
    write(&root, "a.txt", TEXT.repeat(20).as_bytes());
    write(&root, "b.txt", &[TEXT.as_bytes(), &[0xff], TEXT.as_bytes()].concat());
    write(&root, "c.txt", TEXT.repeat(20).as_bytes());
    let folder = configs::Dataset { uri: root.display().to_string(), ..config };
    let said = refused(&folder);
    assert_eq!(said, "b.txt, byte 50: the text is not UTF-8 here, which dataset.tokenizer needs");
    let (plan, dataset) = open(&configs::Dataset { on_bad: OnBad::Skip, ..folder.clone() });
    assert_eq!(plan.form.skipped().map(|skipped| skipped.listed.clone()), Some(vec!["b.txt".to_owned()]));
    std::fs::remove_file(root.join("b.txt")).expect("removed");
    let (without, same) = open(&folder);
    assert_eq!((plan.rows, epoch(&dataset, KEY)), (without.rows, epoch(&same, KEY)));
}

#[test]
fn pieces_of_a_long_text_are_the_lines_that_they_end_with() {
    // Three pieces: tokens never span lines here, so the pieces' tokens are those of the whole.
    let dir = folder();
    let text = TEXT.repeat(3 * (1 << 20) / TEXT.len());
    let config = configs::Dataset { window: 1_024, ..place(&dir, text.as_bytes()) };
    let plan = DataPlan::prepare(&config, None).expect("planned");
    let tokenizer = TextTokenizer::parse(trained().as_bytes()).expect("a tokenizer");
    let of_a_line = tokenizer.encode(TEXT).expect("encoded").len();
    let Format::Text(form) = &plan.form else { panic!("text") };
    assert_eq!(form.tokens, (of_a_line * (text.len() / TEXT.len())) as u64);
}

#[test]
fn what_is_no_tokenizer_is_refused() {
    let dir = folder();
    let config = place(&dir, TEXT.repeat(30).as_bytes());
    let check = |json: &[u8], expected: &str| {
        std::fs::write(json_of(&config), json).expect("written");
        let said = DataPlan::prepare(&config, None).expect_err("refused").to_string();
        assert!(said.contains(expected), "{said}");
    };
    check(b"", "tokenizer.json: this is no tokenizer's JSON file: ");
    check(b"{}", "tokenizer.json: this is no tokenizer's JSON file: ");
    check(&[0xff, 0xfe], "tokenizer.json: this is no tokenizer's JSON file: ");
    let one = r#"{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}"#;
    check(one.as_bytes(), "knows fewer than two tokens");
    let absent = configs::Dataset { tokenizer: Some("no/such.json".into()), ..config.clone() };
    let said = DataPlan::prepare(&absent, Some(dir.path())).expect_err("refused").to_string();
    assert!(
        said.starts_with("dataset.tokenizer = \"no/such.json\": no such file (looked for no/such.json, "),
        "{said}"
    );
}

#[test]
fn tokens_become_text_one_by_one() {
    let tokenizer = TextTokenizer::parse(trained().as_bytes()).expect("a tokenizer");
    // Characters of several tokens, and more tokens than the decoding context.
    let text = format!("the cat \u{1f600} sat \u{e9}{}\u{1f600}", TEXT.repeat(12));
    let tokens = tokenizer.encode(&text).expect("encoded");
    for begun in [0, 1, 40] {
        let given = tokenizer.decode(&tokens[..begun]).expect("text");
        let mut decoding = Decoding::after(&tokenizer, &tokens[..begun]).expect("begun");
        let rest: String = tokens[begun..].iter().map(|token| decoding.push(*token).expect("text")).collect();
        assert_eq!(format!("{given}{rest}"), text, "after {begun}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_text_comes_back(text in "\\PC{0,200}") {
        let tokenizer = TextTokenizer::parse(trained().as_bytes()).expect("a tokenizer");
        let tokens = tokenizer.encode(&text).expect("encoded");
        prop_assert_eq!(tokenizer.decode(&tokens).expect("text"), text);
    }

    #[test]
    fn a_mutated_tokenizer_is_read_or_refused(at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut json = trained().into_bytes();
        for (at, byte) in at {
            let at = at.index(json.len());
            json[at] = byte;
        }
        if let Ok(tokenizer) = TextTokenizer::parse(&json)
            && let Ok(tokens) = tokenizer.encode(TEXT)
        {
            prop_assert!(tokens.iter().all(|token| *token < tokenizer.vocabulary()));
        }
    }
}
