//! Traces of steps, from a real coordinator and real workers to a collector in this process.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use support::Place;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// (service, name, span id, parent's id) by trace.
type Traces = BTreeMap<Vec<u8>, Vec<(String, String, Vec<u8>, Vec<u8>)>>;

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Traces>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut traces = self.0.lock().expect("no test thread panics with it");
        for of_resource in request.into_inner().resource_spans {
            let attributes = of_resource.resource.unwrap_or_default().attributes;
            let name = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            let service = match name.and_then(|name| name.value?.value) {
                Some(Value::StringValue(service)) => service,
                other => panic!("service.name is {other:?}"),
            };
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
                let kept = (service.clone(), span.name, span.span_id, span.parent_span_id);
                traces.entry(span.trace_id).or_default().push(kept);
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn a_step_is_one_trace_of_the_coordinator_and_its_workers() {
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("bound");
    let collector = Collector::default();
    let service = TraceServiceServer::new(collector.clone());
    let server = tonic::transport::Server::builder().add_service(service);
    runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let place = Place::new();
    let otlp = format!("telemetry.otlp=http://{address}");
    place.complete(&["--local-workers", "2", "--set", &otlp]);
    let traces = collector.0.lock().expect("the run is over").clone();

    // Two epochs of five steps and an evaluation each: a trace for each.
    assert_eq!(traces.len(), 12, "{traces:?}");
    let names = |service: &str, spans: &[(String, String, Vec<u8>, Vec<u8>)]| -> Vec<String> {
        let mut names: Vec<_> =
            spans.iter().filter(|span| span.0 == service).map(|span| span.1.clone()).collect();
        names.sort();
        names
    };
    let mut spans_in_all = BTreeSet::new();
    for spans in traces.values() {
        let of_coordinator = names("bonfire-coordinator", spans);
        assert!(of_coordinator == ["step"] || of_coordinator == ["evaluate"], "{spans:?}");
        let of_workers = names("bonfire-worker", spans);
        assert_eq!(
            of_workers,
            ["commit", "commit", "compute", "compute", "exchange", "exchange"],
            "{spans:?}"
        );
        let root = spans.iter().find(|span| span.3.is_empty()).expect("a span of the whole step");
        assert!(spans.iter().all(|span| span.3.is_empty() || span.3 == root.2), "{spans:?}");
        spans_in_all.extend(spans.iter().map(|span| span.2.clone()));
    }
    assert_eq!(spans_in_all.len(), 12 * 7, "no id is given twice");
}

#[test]
fn a_collector_that_is_down_or_hangs_harms_nothing() {
    let place = Place::new();
    place.complete(&[]);
    // Accepts connections and never answers.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    for (name, address) in [("deaf", deaf.local_addr().expect("bound")), ("down", closed)] {
        let began = Instant::now();
        let (otlp, run) = (format!("telemetry.otlp=http://{address}"), format!("run.name={name}"));
        place.complete(&["--set", &otlp, "--set", &run]);
        assert!(began.elapsed() < Duration::from_secs(60), "{name}: {:?}", began.elapsed());
        assert_eq!(place.digest(name), place.digest("small"));
    }
}
