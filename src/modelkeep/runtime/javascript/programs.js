// What Node and a browser share: a job opens an artifact by one of the programs, the next ones compute with it.
// Arrays travel as {shape, dtype, data}, data in base64, or {shape, dtype: 'string', values}.
const VIEWS = {
  float32: Float32Array, float64: Float64Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array,
  int16: Int16Array, uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array,
  int64: BigInt64Array, uint64: BigUint64Array,
};
const programs = {};
let session;

function unpacked({ dtype, data, values }) {
  if (values !== undefined) return values;
  return new VIEWS[dtype](Uint8Array.from(atob(data), (char) => char.charCodeAt(0)).buffer);
}

function packed(values, shape, dtype) {
  if (dtype === 'string') return { shape, dtype, values: Array.from(values) };
  const array = ArrayBuffer.isView(values) ? values : VIEWS[dtype].from(values);
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = '';
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return { shape, dtype, data: btoa(text) };
}

// read(name) gives the bytes of a file of the artifact.
async function answer(job, read) {
  try {
    if (job.open !== undefined) {
      session = await programs[job.open](read, job);
      return { inputs: session.inputs, outputs: session.outputs };
    }
    return { answers: await session.run(job.inputs) };
  } catch (error) {
    return { error: String((error && error.message) || error) };
  }
}

globalThis.modelkeep = { programs, unpacked, packed, answer };
