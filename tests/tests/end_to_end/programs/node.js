// Node: files, children, worker threads, timers, promises.
const assert = require("assert");
const fs = require("fs");
const { execFileSync, spawn } = require("child_process");
const { Worker, isMainThread, parentPort } = require("worker_threads");

if (!isMainThread) {
  parentPort.postMessage(6 * 7);
} else {
  (async () => {
    assert.equal(execFileSync("echo", ["x"]).toString(), "x\n");
    await fs.promises.mkdir("a/b", { recursive: true });
    await fs.promises.writeFile("a/b/c", "text");
    assert.equal(await fs.promises.readFile("a/b/c", "utf8"), "text");
    fs.copyFileSync("a/b/c", "copy");
    fs.renameSync("copy", "a/copy");
    fs.rmSync("a", { recursive: true });
    const child = spawn("cat");
    let out = "";
    child.stdout.on("data", (data) => (out += data));
    child.stdin.end("through");
    assert.equal(await new Promise((done) => child.on("close", done)), 0);
    assert.equal(out, "through");
    const fork = require("child_process").fork(process.argv[1], ["child"], { stdio: "inherit" });
    assert.equal(await new Promise((done) => fork.on("message", done)), "hello");
    const worker = new Worker(__filename);
    assert.equal(await new Promise((done) => worker.on("message", done)), 42);
    assert.ok(require("os").cpus().length > 0);
    assert.equal(require("zlib").gunzipSync(require("zlib").gzipSync("x")).toString(), "x");
    assert.equal(require("crypto").createHash("sha256").update("").digest("hex").slice(0, 8), "e3b0c442");
    await new Promise((done) => setTimeout(done, 5));
    console.log("ok");
  })();
}
if (process.argv[2] === "child") {
  process.send("hello", () => process.exit(0));
}
