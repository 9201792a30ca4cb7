//! A minimal MLflow server for tests: it stores what it receives, and fails on request.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

/// A request that hangs fails its test after this time.
const DEADLINE: Duration = Duration::from_secs(20);

/// The server's content.
#[derive(Default, Debug)]
pub(super) struct Kept {
    pub(super) experiments: Vec<String>,
    /// Tags of each created run.
    pub(super) runs: Vec<Value>,
    pub(super) name: String,
    pub(super) status: String,
    pub(super) lifecycle: String,
    /// (key, step, milliseconds, value) and how often it was sent: MLflow keeps each once.
    pub(super) metrics: BTreeMap<(String, u64, i64, String), usize>,
    pub(super) params: BTreeMap<String, String>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) inputs: Vec<Value>,
    /// The `Authorization` of the last request.
    pub(super) authorization: String,
    failures: VecDeque<Failure>,
}

/// A failure of the next request whose path contains `path`.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) path: &'static str,
    pub(super) how: How,
}

#[derive(Clone, Debug)]
pub(super) enum How {
    /// Status, more headers, body; the request has no effect.
    Answer(u16, String, String),
    /// The request takes effect, and the connection closes without a response.
    LostAnswer,
}

/// The server, which runs as long as the process.
pub(super) struct Server {
    pub(super) url: String,
    kept: Arc<Mutex<Kept>>,
}

impl Server {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let kept = Arc::new(Mutex::new(Kept { lifecycle: "active".into(), ..Kept::default() }));
        let shared = kept.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.expect("a connection"), &shared);
            }
        });
        Self { url, kept }
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no test panics with it")
    }

    pub(super) fn fail(&self, path: &'static str, how: How) {
        self.kept().failures.push_back(Failure { path, how });
    }

    pub(super) fn answer(&self, path: &'static str, status: u16, body: &str) {
        self.fail(path, How::Answer(status, String::new(), body.to_owned()));
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Kept>) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let Some((head, body)) = request(&mut reader) else { return };
    let mut words = head[0].split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut kept = kept.lock().expect("no test panics with it");
    let authorization = head.iter().find_map(|line| line.strip_prefix("authorization: "));
    kept.authorization = authorization.unwrap_or_default().to_owned();
    let failure = kept.failures.front().filter(|failure| target.contains(failure.path)).cloned();
    if failure.is_some() {
        kept.failures.pop_front();
    }
    let (status, headers, text) = match failure.map(|failure| failure.how) {
        Some(How::Answer(status, headers, text)) => (status, headers, text),
        Some(How::LostAnswer) => {
            kept.answer(method, target, &body);
            return;
        }
        None => {
            let (status, value) = kept.answer(method, target, &body);
            // MLflow 3.17 answers an upload with an empty body.
            (status, String::new(), if value.is_null() { String::new() } else { value.to_string() })
        }
    };
    let length = text.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{text}"
    );
}

/// The lines of the head, with lower-case names, and the body.
fn request(reader: &mut impl BufRead) -> Option<(Vec<String>, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let named = line.split_once(": ").map(|(name, value)| format!("{}: {value}", name.to_lowercase()));
        head.push(named.unwrap_or_else(|| line.to_owned()));
    }
    let header = |name: &str| head.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let mut body = Vec::new();
    if header("transfer-encoding: ") == "chunked" {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = u64::from_str_radix(size.trim(), 16).ok()?;
            reader.take(size).read_to_end(&mut body).ok()?;
            reader.read_line(&mut String::new()).ok()?;
            if size == 0 {
                break;
            }
        }
    } else {
        let length = header("content-length: ").parse().unwrap_or(0);
        reader.take(length).read_to_end(&mut body).ok()?;
    }
    Some((head, body))
}

impl Kept {
    /// Clears the pending failures.
    pub(super) fn forgive(&mut self) {
        self.failures.clear();
    }

    fn answer(&mut self, method: &str, target: &str, body: &[u8]) -> (u16, Value) {
        if let Some(path) = target.strip_prefix("/api/2.0/mlflow-artifacts/artifacts/") {
            assert_eq!(method, "PUT");
            self.files.insert(path.to_owned(), body.to_vec());
            return (200, Value::Null);
        }
        let path = target.strip_prefix("/api/2.0/mlflow/").expect("an address of MLflow's");
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        match path {
            "experiments/get-by-name" => {
                let name = query.strip_prefix("experiment_name=").expect("a name");
                match self.experiments.iter().position(|known| known == name) {
                    Some(id) => (200, json!({ "experiment": { "experiment_id": id.to_string() } })),
                    None => absent(),
                }
            }
            "experiments/get" => {
                let id = query.strip_prefix("experiment_id=").expect("an id");
                match id.parse::<usize>().is_ok_and(|id| id < self.experiments.len()) {
                    true => (200, json!({ "experiment": { "experiment_id": id } })),
                    false => absent(),
                }
            }
            "experiments/create" => {
                self.experiments.push(body["name"].as_str().expect("a name").to_owned());
                (200, json!({ "experiment_id": (self.experiments.len() - 1).to_string() }))
            }
            "runs/create" => {
                self.runs.push(body["tags"].clone());
                self.name = body["run_name"].as_str().expect("a name").to_owned();
                self.status = "RUNNING".into();
                (200, self.run())
            }
            "runs/search" => {
                let found = |tags: &&Value| {
                    let tags = tags.as_array().expect("tags");
                    let id = tags.iter().find(|tag| tag["key"] == "bonfire.run_id").expect("the tag");
                    body["filter"].as_str().expect("a filter").contains(id["value"].as_str().expect("an id"))
                };
                let known = self.runs.iter().find(found).map(|_| self.run()["run"].clone());
                (200, known.map_or_else(|| json!({}), |run| json!({ "runs": [run] })))
            }
            "runs/get" if self.runs.is_empty() => absent(),
            "runs/get" => (200, self.run()),
            "runs/update" => {
                self.status = body["status"].as_str().expect("a status").to_owned();
                (200, json!({}))
            }
            "runs/log-inputs" => {
                self.inputs = body["datasets"].as_array().expect("datasets").clone();
                (200, json!({}))
            }
            "runs/log-batch" => self.batch(&body),
            other => panic!("{other} is not asked for"),
        }
    }

    fn run(&self) -> Value {
        let param = |(key, value): (&String, &String)| json!({ "key": key, "value": value });
        let params: Vec<Value> = self.params.iter().map(param).collect();
        let tags: Vec<Value> = self.tags.iter().map(param).collect();
        json!({ "run": { "data": { "params": params, "tags": tags }, "info": {
            "run_id": "r1", "experiment_id": "0", "status": self.status, "lifecycle_stage": self.lifecycle,
            "artifact_uri": "mlflow-artifacts:/0/r1/artifacts",
        } } })
    }

    /// As in MLflow 3.17: duplicates of a metric are dropped, another value for a parameter is refused.
    fn batch(&mut self, body: &Value) -> (u16, Value) {
        let list = |name: &str| body[name].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let invalid =
            |message: &str| (400, json!({ "error_code": "INVALID_PARAMETER_VALUE", "message": message }));
        if self.runs.is_empty() {
            return absent();
        }
        if self.lifecycle != "active" {
            return invalid("The run r1 must be in the 'active' state.");
        }
        if body.to_string().len() > 1_000_000 {
            return invalid("a request is too long");
        }
        for (name, max) in [("metrics", 1_000), ("params", 100), ("tags", 100)] {
            if list(name).len() > max {
                return invalid("too many at once");
            }
        }
        for metric in list("metrics") {
            let (step, time) = (metric["step"].as_u64(), metric["timestamp"].as_i64());
            let (step, time) = (step.expect("a step"), time.expect("whole milliseconds"));
            let at = (text(&metric["key"]), step, time, metric["value"].to_string());
            *self.metrics.entry(at).or_default() += 1;
        }
        for param in list("params") {
            let (key, value) = (text(&param["key"]), text(&param["value"]));
            if self.params.insert(key, value.clone()).is_some_and(|before| before != value) {
                return invalid("Changing param values is not allowed.");
            }
        }
        for tag in list("tags") {
            self.tags.insert(text(&tag["key"]), text(&tag["value"]));
        }
        (200, json!({}))
    }
}

fn absent() -> (u16, Value) {
    (404, json!({ "error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such thing" }))
}
