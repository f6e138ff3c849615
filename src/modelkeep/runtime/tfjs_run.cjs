// Runs a graph model on inputs: the job is JSON on stdin, arrays are little-endian files, answers go to job.out.
// Tensors are found by the names of the signature in model.json, never by their position.
const fs = require('fs');
const path = require('path');
const tf = require('@tensorflow/tfjs-core');
const { loadGraphModel } = require('@tensorflow/tfjs-converter');

const VIEWS = { float32: Float32Array, int32: Int32Array, bool: Uint8Array };

async function main() {
  const job = JSON.parse(fs.readFileSync(0, 'utf8'));
  require(`@tensorflow/tfjs-backend-${job.backend}`);
  await tf.setBackend(job.backend);
  await tf.ready();
  const document = JSON.parse(fs.readFileSync(path.join(job.model, 'model.json'), 'utf8'));
  const [group] = document.weightsManifest;
  const shards = group.paths.map((name) => fs.readFileSync(path.join(job.model, name)));
  const data = Buffer.concat(shards);
  const model = await loadGraphModel({
    load: async () => ({
      modelTopology: document.modelTopology,
      weightSpecs: group.weights,
      modelInitializer: document.modelInitializer,
      weightData: data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength),
      signature: document.signature,
    }),
  });
  const feed = {};
  for (const [name, info] of Object.entries(document.signature.inputs)) {
    const given = job.inputs[name];
    let values = given.values;
    if (given.file !== undefined) {
      const bytes = fs.readFileSync(given.file);
      values = new VIEWS[given.dtype](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    }
    feed[info.name] = tf.tensor(values, given.shape, given.dtype);
  }
  const outputs = Object.entries(document.signature.outputs);
  const found = await model.executeAsync(feed, outputs.map(([, info]) => info.name));
  const tensors = Array.isArray(found) ? found : [found];
  const answer = {};
  for (const [at, [name]] of outputs.entries()) {
    const tensor = tensors[at];
    const values = await tensor.data();
    answer[name] = { shape: tensor.shape, dtype: tensor.dtype };
    if (tensor.dtype === 'string') {
      answer[name].values = Array.from(values);
    } else {
      answer[name].file = `out-${at}.bin`;
      fs.writeFileSync(path.join(job.out, `out-${at}.bin`), Buffer.from(values.buffer, values.byteOffset, values.byteLength));
    }
  }
  fs.writeFileSync(path.join(job.out, 'answer.json'), JSON.stringify(answer));
}

main().catch((error) => {
  console.error(error.stack);
  process.exit(1);
});
