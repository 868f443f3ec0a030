// The real BullMQ on a cluster: `node cluster.mjs 6|5 host:port,host:port`, told what to do by lines of JSON on stdin, as
// driver.mjs is. A worker's result is the job's data.
import { createInterface } from "node:readline";
import { Cluster } from "ioredis";

const [version, places] = process.argv.slice(2);
const bull = await import(version === "5" ? "bullmq5" : "bullmq");
const nodes = places.split(",").map((place) => ({ host: place.split(":")[0], port: Number(place.split(":")[1]) }));
const connection = new Cluster(nodes, { redisOptions: { maxRetriesPerRequest: null } });

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const queues = new Map();

function queueOf(name, prefix) {
  if (!queues.has(name)) queues.set(name, new bull.Queue(name, { connection, prefix }));
  return queues.get(name);
}

const commands = {
  async add({ queue, prefix, count }) {
    const jobs = [...Array(count).keys()].map((n) => ({ name: "job", data: { n } }));
    return (await queueOf(queue, prefix).addBulk(jobs)).map((job) => job.id);
  },
  async work({ queue, prefix, name }) {
    const worker = new bull.Worker(queue, async (job) => job.data, { connection, prefix, name });
    worker.on("completed", (job, result) => say({ notice: "completed", queue, id: job.id, result }));
    worker.on("error", (error) => say({ notice: "error", queue, reason: error.message }));
    await worker.waitUntilReady();
  },
  counts: ({ queue, prefix }) => queueOf(queue, prefix).getJobCounts(),
  async workers({ queue, prefix }) {
    return (await queueOf(queue, prefix).getWorkers()).map((worker) => worker.rawname);
  },
};

async function obey(line) {
  const { n, do: command, ...rest } = JSON.parse(line);
  try {
    say({ n, answer: (await commands[command](rest)) ?? null });
  } catch (error) {
    say({ n, error: { name: error.name, message: error.message, code: error.code ?? null } });
  }
}

createInterface({ input: process.stdin })
  .on("line", obey)
  .on("close", () => process.exit(0));
