// Questions to the tracker that serves this page.

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  } catch {
    throw Object.assign(new Error("The tracker can't be reached. Is the coordinator, or `coordinator tracker serve`, still running? This page goes on by itself when it is back."), { is_away: true });
  }
  const text = await answer.text();
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // Said below, by the status.
  }
  if (answer.status === 401) throw Object.assign(new Error("The tracker asks for its token, which this browser hasn't got or which is another one now."), { asks_token: true });
  if (!answer.ok) throw Object.assign(new Error(body.message || `${path}: ${answer.status} ${answer.statusText}`), { is_absent: answer.status === 404 });
  return body;
}

const many = (name, values) => values.map((value) => `${name}=${encodeURIComponent(value)}`).join("&");

export const experiments = () => ask("api/experiments");

/** A page of runs; `search` has filter, order, experiment, page. */
export function runs({ filter = "", order = "", experiment = "", page = "", limit = 100 }) {
  const parts = [`limit=${limit}`];
  if (filter) parts.push(many("filter", [filter]));
  if (order) parts.push(many("order_by", [order]));
  if (experiment) parts.push(many("experiment", [experiment]));
  if (page) parts.push(many("page", [page]));
  return ask(`api/runs?${parts.join("&")}`);
}

export const run = (id) => ask(`api/runs/${encodeURIComponent(id)}`);

export const models = () => ask("api/models");

export const model = (name) => ask(`api/models/${encodeURIComponent(name)}`);

/** Versions of registered models that were made from a run. */
export async function versionsOf(id) {
  const filter = encodeURIComponent(`run_id = '${id.replaceAll("'", "")}'`);
  return (await ask(`api/2.0/mlflow/model-versions/search?filter=${filter}`)).model_versions || [];
}

export const compare = (ids) => ask(`api/compare?ids=${ids.map(encodeURIComponent).join(",")}`);

/** Series of all keys, in requests of at most 64. */
export async function points(id, keys, max = 800) {
  const series = [];
  for (let at = 0; at < keys.length; at += 64) {
    const some = many("key", keys.slice(at, at + 64));
    series.push(...(await ask(`api/runs/${encodeURIComponent(id)}/points?${some}&max=${max}`)).series);
  }
  return series;
}

export function note(id, text) {
  const body = JSON.stringify({ run_id: id, key: "mlflow.note.content", value: text });
  const headers = { "Content-Type": "application/json" };
  return ask("api/2.0/mlflow/runs/set-tag", { method: "POST", body, headers });
}

export const artifacts = (id, path = "") =>
  ask(`api/2.0/mlflow/artifacts/list?run_id=${encodeURIComponent(id)}${path ? `&${many("path", [path])}` : ""}`);

export const artifact = (experiment, id, path) =>
  `api/2.0/mlflow-artifacts/artifacts/${encodeURIComponent(experiment)}/${encodeURIComponent(id)}/artifacts/` +
  path.split("/").map(encodeURIComponent).join("/");

const STREAM_AGAIN_MS = 3000;

/** A run's changes as they come. `on` has run, points, reset, gone, end, up, down, and refused where an answer says why none come.
    Returns what ends it. */
export function stream(id, on) {
  let [source, timer, isEnded] = [null, null, false];
  const whyNot = async () => {
    const problem = await run(id).then(() => null, (why) => why);
    if (isEnded) return;
    if (problem?.is_absent) return on.gone({});
    if (problem && !problem.is_away) on.refused(problem);
    timer = setTimeout(open, STREAM_AGAIN_MS);
  };
  const open = () => {
    source = new EventSource(`api/runs/${encodeURIComponent(id)}/stream`);
    for (const kind of ["run", "points", "reset", "gone", "end"]) {
      source.addEventListener(kind, (event) => {
        if (kind === "gone") source.close();
        on[kind]?.(JSON.parse(event.data || "{}"));
      });
    }
    source.onopen = () => on.up();
    source.onerror = () => {
      on.down();
      // A browser tries again by itself where nobody answers, but not after a refusal, such as that of a proxy, of a server that
      // is starting, or of one that asks for another token; nor does it say what the refusal was.
      if (source.readyState === EventSource.CLOSED) whyNot();
    };
  };
  open();
  return () => {
    isEnded = true;
    clearTimeout(timer);
    source.close();
  };
}
