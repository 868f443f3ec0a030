// The real BullMQ, told what to do: `node driver.mjs 6|5 <redis url>`, with commands as lines of JSON on stdin, answers
// and notices as lines of JSON on stdout. It ends with whoever holds its stdin.
//
//   {"n": 1, "do": "open", "kind": "queue", "as": "mail", "name": "mail", "options": {...}}
//   {"n": 2, "do": "call", "on": "mail", "method": "add", "args": ["work", {...}, {...}]}   -> {"n": 2, "answer": ...}
//   {"n": 3, "do": "job", "on": "mail", "id": "1", "method": "retry", "args": ["failed"]}   -> {"n": 3, "error": {...}}
//
// An argument {"$object": "mail"} is the object of that name, {"$error": "why"} an error. A job is answered as its toJSON with its state.
import { createInterface } from "node:readline";

const [version, url] = process.argv.slice(2);
const bull = await import(version === "5" ? "bullmq5" : "bullmq");
const { hostname: host, port, pathname } = new URL(url);
const connection = { host, port: Number(port), db: Number(pathname.slice(1) || 0) };

const objects = new Map();
const held = new Map(); // job id -> what lets its processor go on
const released = new Set(); // jobs that were let go before they were held

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const notice = (what, fields) => say({ notice: what, ...fields });

// ------------------------------------------------------------------ what a processor is told by the job's data

const steps = {
  return: (_job, _token, value) => ({ value }),
  throw(_job, _token, reason) {
    throw new Error(reason);
  },
  unrecoverable(_job, _token, reason) {
    throw new bull.UnrecoverableError(reason);
  },
  async delay(job, token, ms) {
    await job.moveToDelayed(Date.now() + ms, token);
    throw new bull.DelayedError();
  },
  async limit(job, _token, ms, worker) {
    await worker.rateLimit(ms);
    throw bull.Worker.RateLimitError();
  },
  progress: (job, _token, value) => job.updateProgress(value),
  log: (job, _token, line) => job.log(line),
  work: (_job, _token, ms) => new Promise((done) => setTimeout(done, ms)),
  crash: () => process.kill(process.pid, "SIGKILL"),
  async hold(job) {
    notice("held", { queue: job.queueName, id: job.id });
    if (!released.delete(job.id)) await new Promise((release) => held.set(job.id, release));
  },
  // What its children have returned, and why those have failed that it does not mind: its result.
  async children(job) {
    const named = (found) => Object.fromEntries(Object.entries(found).map(([key, value]) => [ref(key), value]));
    const [results, ignored] = [await job.getChildrenValues(), await job.getIgnoredChildrenFailures()];
    return { value: { results: named(results), ignored: named(ignored) } };
  },
  // Once: a child that has failed, added again, would be waited for without end.
  async "add-children"(job, _token, trees, worker) {
    if (Object.values(await job.getDependenciesCount()).some((count) => count > 0)) return;
    const flows = new bull.FlowProducer({ connection, prefix: worker.opts.prefix });
    const parent = { id: job.id, queue: job.queueQualifiedName };
    for (const tree of trees) await flows.add({ ...tree, opts: { ...tree.opts, parent } });
    await flows.close();
  },
  async "await-children"(job, token) {
    if (await job.moveToWaitingChildren(token)) throw new bull.WaitingChildrenError();
  },
};

// A job's key, less its prefix, as Toril names it.
const ref = (key) => key.replace(/^[^:]*:([^:]*):/, "$1/");

// `data.do` holds steps; `data.tries` holds steps for each attempt, the last for all that follow. Without either, the
// data is the result.
async function follow(worker, job, token) {
  const { do: once, tries } = job.data ?? {};
  if (!once && !tries) return job.data;
  for (const [step, ...args] of once ?? tries[Math.min(job.attemptsMade, tries.length - 1)]) {
    const done = await steps[step](job, token, ...args, worker);
    if (step === "return" || step === "children") return done.value;
  }
}

// ------------------------------------------------------------------ objects

const eventNames = [
  "active", "added", "cleaned", "completed", "deduplicated", "delayed", "drained", "duplicated", "failed", "paused",
  "progress", "removed", "resumed", "retries-exhausted", "stalled", "waiting", "waiting-children",
];

const open = {
  async queue(name, options) {
    const queue = new bull.Queue(name, { connection, ...options });
    await queue.waitUntilReady();
    return queue;
  },
  async worker(name, options, as) {
    const follows = async (job, token) => {
      notice("started", { as, queue: name, id: job.id, name: job.name, attempt: job.attemptsMade + 1 });
      return follow(worker, job, token);
    };
    const worker = new bull.Worker(name, options.autorun === false ? null : follows, { connection, ...options });
    worker.on("completed", (job, result) => notice("completed", { as, queue: name, id: job.id, result }));
    worker.on("failed", (job, error) => notice("failed", { as, queue: name, id: job?.id, reason: error.message }));
    worker.on("stalled", (id) => notice("stalled", { as, queue: name, id }));
    worker.on("error", (error) => notice("error", { as, queue: name, reason: error.message }));
    await worker.waitUntilReady();
    return worker;
  },
  async events(name, { also = [], ...options }, as) {
    const events = new bull.QueueEvents(name, { connection, ...options });
    for (const event of [...eventNames, ...also])
      events.on(event, (fields, id) =>
        notice("event", { as, queue: name, event, ...(id ? { fields, entry: id } : { fields: {}, entry: fields }) }),
      );
    events.on("error", (error) => notice("error", { as, queue: name, reason: error.message }));
    await events.waitUntilReady();
    return events;
  },
  producer: async (name, options) => new bull.QueueEventsProducer(name, { connection, ...options }),
  flow: async (_name, options) => new bull.FlowProducer({ connection, ...options }),
};

const find = (name) => {
  const object = objects.get(name);
  if (!object) throw new Error(`nothing is open as ${name}`);
  return object;
};

// ------------------------------------------------------------------ values to and fro

async function told(value) {
  if (value instanceof bull.Job) return { ...value.toJSON(), state: await value.getState() };
  if (value instanceof Map) return told(Object.fromEntries(value));
  if (Array.isArray(value)) return Promise.all(value.map(told));
  if (value?.job instanceof bull.Job) return { ...value, job: await told(value.job), children: await told(value.children) };
  return value ?? null;
}

const meant = (value) => (value?.$object ? find(value.$object) : value?.$error ? new Error(value.$error) : value);

// ------------------------------------------------------------------ commands

const commands = {
  async open({ kind, as, name, options = {} }) {
    objects.set(as, await open[kind](name, options, as));
  },
  call: ({ on, method, args = [] }) => find(on)[method](...args.map(meant)),
  async job({ on, id, method, args = [] }) {
    const job = await bull.Job.fromId(find(on), id);
    if (!job) throw new Error(`there is no job ${id}`);
    return job[method](...args.map(meant));
  },
  // All that Node's getters say of a job.
  async see({ on, id }) {
    const queue = find(on);
    const job = await bull.Job.fromId(queue, id);
    if (!job) return null;
    return { ...(await told(job)), stored: job.asJSON(), logs: await queue.getJobLogs(id) };
  },
  release({ id }) {
    if (held.has(id)) held.get(id)();
    else released.add(id);
    held.delete(id);
  },
  async close({ as, force = false }) {
    const object = find(as);
    objects.delete(as);
    await object.close(force);
  },
  // Everything that a test has left open.
  async reset() {
    for (const release of held.values()) release();
    held.clear();
    released.clear();
    const left = [...objects.values()];
    objects.clear();
    await Promise.all(left.map((object) => object.close(true)));
  },
};

async function obey(line) {
  const { n, do: command, ...rest } = JSON.parse(line);
  try {
    say({ n, answer: await told(await commands[command](rest)) });
  } catch (error) {
    say({ n, error: { name: error.name, message: error.message, code: error.code ?? null } });
  }
}

createInterface({ input: process.stdin })
  .on("line", obey)
  .on("close", () => process.exit(0));
say({ notice: "ready", version });
