//! Writes `corpus/TARGET/seed-*`: values as in the crates' tests, in the formats that the fuzz targets read.

use std::path::Path;

use prost::Message;
use protocol::ids::{MemberId, MemberKey, Phase, RunId, StepKey, ViewId};
use protocol::journal::{CommitRecord, EndRecord, Record, TermRecord, ViewRecord, encode};
use protocol::messages::{
    Commit, EndReason, Failure, FromWorker, Held, Join, MemberInfo, Next, Ready, ReduceAt, Timings, ToWorker,
    UpdateScalars, UploadKind, Verdict, View, Welcome,
};
use wire::convert::{from_worker_out, to_worker_out};
use wire::frames::{Header, Kind, blocks, sums};

fn main() {
    put("journal", &journal());
    put("convert", &messages());
    put("frames", &frames());
    put("handshake", &handshakes());
    put("filter", &texts(FILTERS));
    put("metrics", &texts(METRICS));
    put("run_record", &texts(RUN_RECORDS));
    put("mlflow", &mlflow());
    put("config", &configs());
    put("safetensors", &tensors());
    put("csv", &tables());
    put("parquet", &vectors("parquet", &[]));
    put("image", &[vectors("png", &[5]), vectors("jpg", &[4])].concat());
    put("idx", &idx());
    put("tokenizer", &texts(TOKENIZERS));
    put("archive", &archives());
}

/// The contents of a corpus's files.
type Seeds = Vec<Vec<u8>>;

fn put(target: &str, seeds: &[Vec<u8>]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    std::fs::create_dir_all(&folder).expect("made");
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number:02}")), seed).expect("written");
    }
}

fn texts(texts: &[&str]) -> Seeds {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const RUN: RunId = RunId([1; 16]);
const KEY: StepKey = StepKey { view: ViewId((1 << 32) | 1), step: 1, phase: Phase::Train };
const SCALARS: UpdateScalars = UpdateScalars {
    learning_rate: 0.001,
    clip_factor: 1.0,
    bias_correction1: 0.1,
    bias_correction2_sqrt: 0.03,
    first: true,
};
const NEXT: Next = Next { version: Some(MemberId(1)), evaluate: true, last: false, hold: false };

fn commit() -> CommitRecord {
    CommitRecord {
        key: KEY,
        hash: 7,
        verdict: Verdict::Apply,
        applied: 1,
        scalars: SCALARS,
        next: NEXT,
        sums: vec![1.5, 64.0],
        squared_norm: 0.25,
        state_check: 9,
    }
}

fn view() -> View {
    View {
        id: KEY.view,
        members: vec![
            MemberInfo { member: MemberId(1), name: "a".to_owned(), share: 5 },
            MemberInfo { member: MemberId(2), name: "b".to_owned(), share: 3 },
        ],
        reduce: ReduceAt::Coordinator,
        step: 1,
        phase: Phase::Train,
        dealt: vec![vec![0..5], vec![5..7, 8..9]],
    }
}

fn journal() -> Seeds {
    let term = |term| {
        Record::Term(TermRecord {
            term,
            run: RUN,
            config_digest: "c".to_owned(),
            data_digest: "d".to_owned(),
        })
    };
    let opened = ViewRecord { view: view(), fingerprint: Some([3; 32]), reason: "a joined".to_owned() };
    let evaluated = CommitRecord { key: StepKey { phase: Phase::Evaluate, ..KEY }, ..commit() };
    let end = EndRecord { reason: EndReason::Completed, code: 0, message: String::new(), step: 1 };
    let records = [
        term(1),
        Record::Version { step: 0, digest: [4; 32] },
        Record::View(opened),
        Record::Commit(commit()),
        Record::Commit(evaluated),
        Record::Version { step: 1, digest: [5; 32] },
        Record::Rewind { to_step: 0, void: true, reason: "a deviant".to_owned() },
        term(2),
        Record::Adopted(commit()),
        Record::Stop { reason: "SIGINT".to_owned() },
        Record::End(end),
    ];
    const HEADER_BYTES: usize = 16;
    let whole: Vec<u8> = records.iter().flat_map(encode).collect();
    let payloads = records.iter().flat_map(|record| {
        let payload = encode(record).split_off(HEADER_BYTES);
        [&(payload.len() as u16).to_le_bytes()[..], &payload].concat()
    });
    let payloads: Vec<u8> = payloads.collect();
    let zeros = [&whole[..], &[0; 32]].concat();
    let torn = &whole[..whole.len() - 3];
    let mut seeds = vec![[&[1], &payloads[..]].concat()];
    seeds.extend([&whole[..], &zeros, torn].map(|file| [&[0], file].concat()));
    seeds
}

fn messages() -> Seeds {
    let holds = Held { step: 1, state_check: 2, prepared: Some((2, 3)), commit: Some(Box::new(commit())) };
    let join = Join {
        protocol_version: protocol::PROTOCOL_VERSION,
        tasks: vec![("mlp".to_owned(), 1)],
        fingerprint: [3; 32],
        build: protocol::BUILD.to_owned(),
        name: "a".to_owned(),
        device: "cpu".to_owned(),
        slot: Some(0),
        pid: 7,
        instance: 9,
        run: Some(RUN),
        holds: Some(holds),
    };
    let ready = Ready {
        key: KEY,
        sums: vec![1.5, 64.0],
        squared_norm: 0.25,
        finite: true,
        hash: 7,
        state_check: 8,
        timings: Timings::default(),
    };
    let failure = || Failure { code: 2, message: "no such key".to_owned() };
    let welcome = Welcome {
        run: RUN,
        run_name: "digits-1".to_owned(),
        member: MemberId(1),
        name: "a".to_owned(),
        config: "[train]".to_owned(),
        data_plan: "{}".to_owned(),
        data_port: 7000,
        heartbeat_ms: 1000,
        key: MemberKey([5; 32]),
    };
    let made =
        Commit { key: KEY, verdict: Verdict::Apply, hash: 7, scalars: SCALARS, next: NEXT, applied: 1 };
    let from_worker = [
        FromWorker::Join(join),
        FromWorker::Prepared { elements: 100 },
        FromWorker::Loaded { step: 1, digest: [4; 32] },
        FromWorker::Ready(ready),
        FromWorker::Applied { step: 1, state_check: 8 },
        FromWorker::Heartbeat,
        FromWorker::Leaving { reason: "SIGTERM".to_owned() },
        FromWorker::Failed(failure()),
        FromWorker::NotUploaded { kind: UploadKind::Version, step: 1, reason: "disk".to_owned() },
    ];
    let to_worker = [
        ToWorker::Welcome(welcome),
        ToWorker::Refused(failure()),
        ToWorker::Evicted { reason: "late".to_owned(), forget: true },
        ToWorker::Recover(made.clone()),
        ToWorker::Initialise,
        ToWorker::Load { step: 1 },
        ToWorker::View(view()),
        ToWorker::Commit(made),
        ToWorker::SendState { step: 1 },
        ToWorker::WriteVersion { step: 1 },
        ToWorker::End { reason: EndReason::Failed, message: "NaN".to_owned() },
        ToWorker::Alive,
    ];
    let from = from_worker.map(|message| [&[0], &from_worker_out(message).encode_to_vec()[..]].concat());
    let to = to_worker.map(|message| [&[1], &to_worker_out(message).encode_to_vec()[..]].concat());
    from.into_iter().chain(to).collect()
}

fn frames() -> Seeds {
    let mut tail = Vec::new();
    let mut seeds = Vec::new();
    for (kind, floats) in
        [(Kind::Partial, 4), (Kind::Slice, 4), (Kind::PartialSums, 0), (Kind::ReducedSums, 0)]
    {
        match kind {
            Kind::Partial => blocks::encode(&[1], &[], &mut tail),
            Kind::Slice => blocks::encode(&[1], &[2.0], &mut tail),
            Kind::PartialSums | Kind::ReducedSums => sums::encode(&[1.5, 64.0], &[255], &mut tail),
        }
        let header = Header {
            kind,
            key: KEY,
            node_level: 3,
            node_index: 1,
            slice: 0,
            tail_bytes: tail.len() as u32,
            floats,
        };
        let (head, body) = (header.encode(&tail), vec![63; floats as usize * 4]);
        seeds.push([&[0], &head[..], &tail, &body].concat());
        // Without its checksum, which the target inserts.
        seeds.push([&[1], &head[..40], &tail, &body].concat());
    }
    seeds.push([&[0][..], &seeds[0][1..], &seeds[2][1..], &seeds[4][1..]].concat());
    seeds
}

fn handshakes() -> Seeds {
    let prefix = [&b"BNFH"[..], &wire::handshake::VERSION.to_le_bytes()].concat();
    let hello = [&prefix[..], &[1; 16], &1u64.to_le_bytes(), &[2; 32], &[3; 32], &[4; 32]].concat();
    let agreed = [&prefix[..], &[2; 32], &[0; 4], &[3; 32]].concat();
    let refusal = [&prefix[..], &[2; 32], &15u32.to_le_bytes(), b"\x1b[31manother run"].concat();
    let other_version = b"BNFH\xff\0\0\0".to_vec();
    let sides = [
        (0, hello),
        (1, agreed),
        (1, refusal),
        (0, other_version.clone()),
        (1, other_version),
        (0, b"GET / HTTP/1.1\r\n".to_vec()),
    ];
    sides.into_iter().map(|(side, bytes)| [&[side], &bytes[..]].concat()).collect()
}

const FILTERS: &[&str] = &[
    "metrics.x<=-1.5e3 and metric.`a b` >= 2\n3.5",
    "metrics.\"train/loss\" != .5",
    "params.model.kind = 'cnn' and tags.mlflow.runName LIKE \"a%\"\nabc",
    "tag.x ilike 'it''s'\nIT'S",
    "run_id IN ('a','b' , \"c\")\nb",
    "name NOT IN ('a', 1)\nc",
    "tags.x is not null and tags.y IS NULL",
    "dataset.digest = 'd'",
    "metrics.`a b` DESC",
    "grün = ",
    "a = 'b' or c = 'd'",
    "name LIKE '%a%b_%'\nxxaxxbxaab",
];

const METRICS: &[&str] = &[
    "{\"step\":12,\"epoch\":0.5,\"samples\":6,\"time\":1.25,\"key\":\"train/loss\",\"value\":0.1}\n{\"step\":13,\"epoch\":0.5,\"samples\":6,\"time\":1.25,\"key\":\"train/loss\",\"value\":\"NaN\"}\n",
    "{ \"key\": \"k\", \"value\": 2, \"time\": 0, \"samples\": 1, \"epoch\": 3, \"step\": 4 }\n",
    "nonsense\n{}\n\n{\"step\":1,\"epoch\":0,\"samples\":0,\"time\":0,\"key\":\"k\",\"value\":\"-Infinity\"}\n{\"step\":",
    "{\"step\":1,\"epoch\":1e-7,\"samples\":18446744073709551615,\"time\":1.5e300,\"key\":\"\\u00e9\\ud83d\\ude00\",\"value\":2.2250738585072014e-308}\n",
];

const RUN_RECORDS: &[&str] = &[
    r#"{"run":"digits-1","id":"u","status":"interrupted","message":"","seed":42,"config_digest":"c","git_commit":null,"dataset":{"name":"d","version":"d@0","digest":"0","skipped":0},"final":{"step":3,"epoch":1,"samples":9,"digest":"","metrics":{"validation/loss":"NaN","validation/accuracy":0.5},"best_step":3,"confusion":{"labels":["a","b"],"counts":[[1,0],[2,3]]}},"members":[{"name":"a","device":"cpu","fingerprint":"00","joined_step":0,"left_step":2,"reason":"SIGTERM","machine":{"driver":"","program":"","os":"Linux"}}],"members_left_out":1,"events":[{"time":1.5,"step":1,"event":"joined","text":"a","cost_seconds":0.5,"repeated":2}],"views":1,"retries":0,"exact":true,"timings":{"compute_seconds":"Infinity"},"provenance":{}}"#,
    r#"{"run":"a","status":"running","seed":0,"config_digest":"","git_commit":"f","dataset":{},"final":{},"members":[],"views":0,"retries":0,"exact":false}"#,
];

fn mlflow() -> Seeds {
    let run = "\"run_id\":\"RUN\"";
    let bodies = [
        (0, "{\"experiment_id\":\"0\",\"start_time\":5,\"run_name\":\"a\",\"tags\":[{\"key\":\"t\",\"value\":\"v\"}]}".to_owned()),
        (1, "{\"experiment_ids\":[\"0\"],\"filter\":\"metrics.a > 1 and tags.t = 'v'\",\"order_by\":[\"start_time DESC\"],\"max_results\":5,\"run_view_type\":\"ALL\"}".to_owned()),
        (2, format!("{{{run},\"metrics\":[{{\"key\":\"m\",\"value\":1.5,\"step\":1,\"timestamp\":2}}],\"params\":[{{\"key\":\"p\",\"value\":\"v\"}}],\"tags\":[{{\"key\":\"t\",\"value\":\"v\"}}]}}")),
        (3, format!("{{{run},\"key\":\"m\",\"value\":\"NaN\",\"timestamp\":\"5\",\"step\":\"-1\"}}")),
        (4, format!("{{{run},\"key\":\"p\",\"value\":\"v\"}}")),
        (5, format!("{{{run},\"key\":\"mlflow.note.content\",\"value\":\"v\"}}")),
        (7, format!("{{{run},\"datasets\":[{{\"dataset\":{{\"name\":\"d\",\"digest\":\"0\",\"source_type\":\"x\",\"source\":\"y\"}},\"tags\":[{{\"key\":\"mlflow.data.context\",\"value\":\"training\"}}]}}]}}")),
        (8, format!("{{{run},\"models\":[{{\"model_id\":\"m-1\",\"step\":0}}]}}")),
        (9, format!("{{{run},\"model_json\":\"{{}}\"}}")),
        (10, format!("{{{run},\"status\":\"FINISHED\",\"end_time\":9,\"run_name\":\"b\"}}")),
        (13, "{\"name\":\"e\",\"artifact_location\":\"\",\"tags\":[]}".to_owned()),
        (14, "{\"filter\":\"name LIKE 'e%'\",\"order_by\":[\"name\"],\"max_results\":3,\"page_token\":\"\"}".to_owned()),
        (17, "{\"name\":\"model\",\"tags\":[],\"description\":\"d\"}".to_owned()),
        (21, "{\"name\":\"model\",\"alias\":\"champion\",\"version\":\"1\"}".to_owned()),
        (23, format!("{{\"name\":\"model\",\"source\":\"runs:/RUN/model\",{run}}}")),
        (27, format!("{{\"experiment_id\":\"0\",\"name\":\"m\",\"source_{}}}", &run[1..])),
        (28, "{\"experiment_ids\":[\"0\"],\"filter\":\"metrics.x > 1\",\"order_by\":[{\"field_name\":\"metrics.x\",\"ascending\":true}],\"max_results\":5}".to_owned()),
        (31, "run_id=RUN".to_owned()),
        (32, "run_id=RUN&metric_key=m&max_results=2&page_token=".to_owned()),
        (33, "run_id=RUN&path=a/../b".to_owned()),
        (36, "filter=name%3D%27a%27&max_results=5&order_by=name".to_owned()),
        (39, "filter=metrics.a%20%3E%201&order_by=params.x&column=metrics.m&limit=5&stage=all&page=2".to_owned()),
        (41, "key=m&max=10".to_owned()),
        (42, "ids=RUN,RUN".to_owned()),
    ];
    let mut seeds: Seeds = bodies.iter().map(|(path, text)| [&[*path], text.as_bytes()].concat()).collect();
    // Requests that belong together: values are logged, searched and read; a model and its version.
    for together in [[2, 1, 32], [17, 23, 21]] {
        let find = |path: u8| seeds.iter().find(|seed| seed[0] == path).cloned().unwrap_or_default();
        seeds.push(together.map(find).join(&b'\n'));
    }
    seeds
}

fn configs() -> Seeds {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let preset = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).expect("read");
        // Comments are for people.
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    };
    let presets = ["csv.toml", "digits.toml", "mnist-cnn.toml", "shakespeare-gpt.toml", "tabular.toml"];
    let mut seeds: Seeds = presets.iter().map(|name| preset(name).into_bytes()).collect();
    let short = "[dataset]\nuri = \"a.csv\"\n[train]\nepochs = 2";
    for flags in [
        "\0run.seed=7\0model.hidden=[1, 2]",
        "\0dataset.columns.\"a.b=c\"=ignore\0train.steps=5",
        "\0checkpoint.every=3 steps\0elastic.lease=5s\0train.clip_norm=1e-3",
        "\0model.class_weights=balanced\0optimizer.kind=sdg\0train.batchsize=1",
        "\0schedule.kind=cosine\0schedule.warmup_steps=3\0train.precision=bf16\0train.patience=3",
    ] {
        seeds.push(format!("{short}{flags}").into_bytes());
    }
    seeds
}

fn tensors() -> Seeds {
    let header = br#"{"__metadata__":{"labels":"[\"a\"]"},"head.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"hidden.weight":{"dtype":"F32","shape":[3,2],"data_offsets":[8,32]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], &header[..], &[1; 32]].concat();
    vec![
        [&[0], &file[..]].concat(),
        [&[1], &header[..]].concat(),
        b"\x01{\"head.bias\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"hidden.weight\":{\"dtype\":\"F16\",\"shape\":[3,2,2],\"data_offsets\":[8,32]}}".to_vec(),
        b"\x01{\"exp_avg/head.bias\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[0,2]}}".to_vec(),
    ]
}

/// Typical tables, each after the byte that selects how it is read.
fn tables() -> Seeds {
    let text = |mode: u8, text: &str| [&[mode], text.as_bytes()].concat();
    vec![
        text(0, "a,b,y\n1,x,0\n2.5,,1\nNA,z,0\n4,x,1\n5,x,1\n"),
        text(1, "1,2,3\n4,5,6\n7,8,9\n1,1,1\n"),
        text(2, "name;size;y\n\"a;\"\"b\"\"\";1,5;no\nc;2;yes\nd;3;no\n"),
        text(8, "a,y\n1,x\n2\n3,y,z\n4,y\n5,x\n"),
        text(0x30, "a\tb\r\n1e3\t-.5\r\n\r\n+4\t1e-3\r\ninf\t3\r\n"),
        text(0, "\u{feff}a,b\r\n1,\"2\n\n\"\r\n3,4\r\n5,6\r\n"),
    ]
}

/// Files written by other programs, each after the byte that selects how it is read.
fn vectors(extension: &str, mode: &[u8]) -> Seeds {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/tests/vectors/files");
    let files = std::fs::read_dir(folder).expect("listed").map(|file| file.expect("listed").path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|own| own == extension)).collect();
    files.sort();
    files.iter().map(|path| [mode, &std::fs::read(path).expect("read")].concat()).collect()
}

fn idx() -> Seeds {
    let images = |sizes: &[u32], numbers: usize| {
        let mut bytes = vec![0, 0, 8, sizes.len() as u8];
        bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend((0..numbers).map(|number| (number * 7) as u8));
        bytes
    };
    let labels = [&[0, 0, 8, 1, 0, 0, 0, 4][..], &[0, 1, 0, 1]].concat();
    let both = |images: Vec<u8>| {
        let all = labels.len() + images.len();
        [vec![(labels.len() * 256).div_ceil(all) as u8], labels.clone(), images].concat()
    };
    vec![both(images(&[4, 2, 3], 24)), both(images(&[4, 3, 1, 1], 12)), both(images(&[4, 2, 3], 20))]
}

const TOKENIZERS: &[&str] = &[
    r#"{"version":"1.0","pre_tokenizer":{"type":"Whitespace"},"model":{"type":"WordLevel","vocab":{"to":0,"be":1,"<unk>":2},"unk_token":"<unk>"}}"#,
    r#"{"version":"1.0","normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Lowercase"},{"type":"Replace","pattern":{"String":" "},"content":"_"}]},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","vocab":{"t":0,"o":1,"to":2,"b":3,"e":4},"merges":["t o"],"byte_fallback":false}}"#,
    r#"{"version":"1.0","added_tokens":[{"id":3,"content":"[X]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"always","split":true},"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["_to",-1.5],["be",-2.0]],"byte_fallback":false}}"#,
    r###"{"version":"1.0","normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[UNK]":0,"to":1,"##be":2}}}"###,
];

/// Tar archives with a file or two, like those of CIFAR-10.
fn archives() -> Seeds {
    let entry = |name: &str, kind: u8, bytes: &[u8]| {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
        header[148..156].copy_from_slice(b"        ");
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let padding = vec![0; bytes.len().next_multiple_of(512) - bytes.len()];
        [header, bytes.to_vec(), padding].concat()
    };
    let image = [1; 3073];
    let end = vec![0; 1024];
    let (train, test) = (entry("c/data_batch_1.bin", b'0', &image), entry("c/test_batch.bin", b'0', &image));
    vec![
        [train.clone(), test.clone(), end.clone()].concat(),
        [entry("readme", b'0', b"text"), entry("../test_batch.bin", b'2', b""), end.clone()].concat(),
        [entry("././@LongLink", b'L', b"data_batch_2.bin\0"), train, test, end].concat(),
    ]
}
