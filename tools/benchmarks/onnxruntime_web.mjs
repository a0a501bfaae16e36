// Runs an ONNX file in onnxruntime-web (WebAssembly, one thread) for runtime_engines.py:
//   node onnxruntime_web.mjs FOLDER_OF_THE_PACKAGE FILE.onnx
// Standard input: float32 tensors for the only input, one after the other. Standard output: a line
// of JSON about the file, then for each tensor the milliseconds as float64, and the output.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { writeSync } from "node:fs";

const [folder, file] = process.argv.slice(2);
const resolve = createRequire(pathToFileURL(folder + "/")).resolve;
// The file for Node beside the one that `require` finds.
const entry = resolve("onnxruntime-web").replace(/[^/\\]*$/, "ort.node.min.mjs");
const ort = await import(pathToFileURL(entry));
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

function write(bytes) {
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(1, bytes, done);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

let session;
try {
  session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
} catch (error) {
  write(Buffer.from(JSON.stringify({ error: String(error.message ?? error) }) + "\n"));
  process.exit(0);
}
const [input] = session.inputNames, [output] = session.outputNames;
const shape = session.inputMetadata[0].shape.map((side) => (typeof side === "number" ? side : 1));
const bytes = 4 * shape.reduce((product, side) => product * side, 1);
write(Buffer.from(JSON.stringify({ version: ort.env.versions.web, shape }) + "\n"));

let waiting = Buffer.alloc(0);
for await (const chunk of process.stdin) {
  waiting = Buffer.concat([waiting, chunk]);
  while (waiting.length >= bytes) {
    const values = new Float32Array(waiting.buffer.slice(waiting.byteOffset, waiting.byteOffset + bytes));
    waiting = waiting.subarray(bytes);
    const tensor = new ort.Tensor("float32", values, shape);
    const began = performance.now();
    const found = await session.run({ [input]: tensor });
    const data = await found[output].getData();
    const taken = performance.now() - began;
    write(Buffer.from(new Float64Array([taken]).buffer));
    write(Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  }
}
