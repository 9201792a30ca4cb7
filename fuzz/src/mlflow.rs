//! Fuzzes requests to the tracker: MLflow's API and the pages' own, through the router without a socket.

use std::cell::RefCell;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use tower_service::Service;
use tracker::server::{Tracker, router};

const MLFLOW: &str = "/api/2.0/mlflow/";

/// Endpoints that take a JSON body, by method and path below MLflow's prefix.
const BODIES: &[(Method, &str)] = &[
    (Method::POST, "runs/create"),
    (Method::POST, "runs/search"),
    (Method::POST, "runs/log-batch"),
    (Method::POST, "runs/log-metric"),
    (Method::POST, "runs/log-parameter"),
    (Method::POST, "runs/set-tag"),
    (Method::POST, "runs/delete-tag"),
    (Method::POST, "runs/log-inputs"),
    (Method::POST, "runs/outputs"),
    (Method::POST, "runs/log-model"),
    (Method::POST, "runs/update"),
    (Method::POST, "runs/delete"),
    (Method::POST, "runs/restore"),
    (Method::POST, "experiments/create"),
    (Method::POST, "experiments/search"),
    (Method::POST, "experiments/update"),
    (Method::POST, "experiments/set-experiment-tag"),
    (Method::POST, "registered-models/create"),
    (Method::POST, "registered-models/rename"),
    (Method::PATCH, "registered-models/update"),
    (Method::POST, "registered-models/set-tag"),
    (Method::POST, "registered-models/alias"),
    (Method::POST, "registered-models/get-latest-versions"),
    (Method::POST, "model-versions/create"),
    (Method::PATCH, "model-versions/update"),
    (Method::POST, "model-versions/set-tag"),
    (Method::DELETE, "model-versions/delete"),
    (Method::POST, "logged-models"),
    (Method::POST, "logged-models/search"),
    (Method::PATCH, "logged-models/RUN/tags"),
    (Method::POST, "logged-models/RUN/params"),
];

/// Endpoints that take a query string.
const QUERIES: &[&str] = &[
    "/api/2.0/mlflow/runs/get",
    "/api/2.0/mlflow/metrics/get-history",
    "/api/2.0/mlflow/artifacts/list",
    "/api/2.0/mlflow/experiments/get",
    "/api/2.0/mlflow/experiments/get-by-name",
    "/api/2.0/mlflow/registered-models/search",
    "/api/2.0/mlflow/model-versions/search",
    "/api/2.0/mlflow/model-versions/get",
    "/api/runs",
    "/api/runs/RUN",
    "/api/runs/RUN/points",
    "/api/compare",
    "/api/models",
    "/api/keys",
];

/// Inputs per tracker; then a new one starts, because the data that they wrote slow down later ones.
const INPUTS_MAX: usize = 256;

/// Each line is a request: the first byte selects the path, the rest is its body or query, in which `RUN` stands for
/// the id of an existing run. No request may cause a server error (5xx).
pub fn run(data: &[u8]) {
    SERVER.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(|server| server.inputs >= INPUTS_MAX) {
            *kept = Some(Server::start());
        }
        let server = kept.as_mut().expect("started");
        server.inputs += 1;
        for line in data.split(|byte| *byte == b'\n').take(8) {
            let Some((choice, text)) = line.split_first() else { continue };
            let text = String::from_utf8_lossy(text).replace("RUN", &server.run);
            let choice = usize::from(*choice) % (BODIES.len() + QUERIES.len());
            let (method, path, body) = match BODIES.get(choice) {
                Some((method, path)) => (method.clone(), format!("{MLFLOW}{path}"), text),
                None => (Method::GET, format!("{}?{text}", QUERIES[choice - BODIES.len()]), String::new()),
            };
            let path = path.replace("RUN", &server.run);
            if let Some((status, answer)) = server.request(method.clone(), &path, body.clone()) {
                assert!(status < 500, "{method} {path}\n{body}\n{status} {answer}");
            }
        }
    });
}

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

struct Server {
    runtime: tokio::runtime::Runtime,
    router: Router,
    run: String,
    inputs: usize,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        // In memory if possible: the files are not under test.
        let dir =
            tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let tracker = Tracker::open(dir.path(), None, |remark| panic!("{remark}")).expect("opened");
        let mut server = Self { runtime, router: router(tracker), run: String::new(), inputs: 0, _dir: dir };
        let body = r#"{"experiment_id": "0", "start_time": 5}"#.to_owned();
        let (_, created) = server.request(Method::POST, &format!("{MLFLOW}runs/create"), body).expect("sent");
        let (_, after) = created.split_once("\"run_id\":\"").expect("an id");
        server.run = after.split('"').next().unwrap_or_default().to_owned();
        server
    }

    /// `None` if no client could send this request.
    fn request(&mut self, method: Method, path: &str, body: String) -> Option<(u16, String)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1:5000")
            .header("content-type", "application/json")
            .body(Body::from(body))
            .ok()?;
        let router = &mut self.router;
        self.runtime.block_on(async {
            let Ok(answer) = router.call(request).await;
            let status = answer.status().as_u16();
            let text = axum::body::to_bytes(answer.into_body(), 64 << 20).await.expect("an answer");
            Some((status, String::from_utf8_lossy(&text).into_owned()))
        })
    }
}
