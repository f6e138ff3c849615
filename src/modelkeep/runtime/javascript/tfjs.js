// TensorFlow.js: a graph model. Tensors are found by the names of its signature, never by their position.
modelkeep.programs.tfjs = async (read, { backend }) => {
  const { tf } = globalThis;
  if (backend === 'wasm' && modelkeep.wasm) tf.wasm.setWasmPaths(modelkeep.wasm);
  if (!(await tf.setBackend(backend))) throw new Error(`the backend ${backend} does not start`);
  await tf.ready();
  const document = JSON.parse(new TextDecoder().decode(await read('model.json')));
  const [group] = document.weightsManifest;
  const shards = await Promise.all(group.paths.map(read));
  const weightData = await new Blob(shards).arrayBuffer();
  const { modelTopology, modelInitializer, signature } = document;
  const model = await tf.loadGraphModel({
    load: async () => ({ modelTopology, weightSpecs: group.weights, modelInitializer, weightData, signature }),
  });
  const DTYPES = { DT_FLOAT: 'float32', DT_INT32: 'int32', DT_BOOL: 'bool', DT_STRING: 'string' };
  const told = (infos) => Object.entries(infos).map(([name, { dtype, tensorShape }]) => ({
    name, dtype: DTYPES[dtype], shape: ((tensorShape || {}).dim || []).map(({ size }) => Number(size || 0)),
  }));
  const outputs = Object.entries(signature.outputs);
  return {
    inputs: told(signature.inputs),
    outputs: told(signature.outputs),
    run: async (inputs) => {
      const feed = {};
      for (const [name, { name: place }] of Object.entries(signature.inputs)) {
        const { shape, dtype } = inputs[name];
        feed[place] = tf.tensor(modelkeep.unpacked(inputs[name]), shape, dtype);
      }
      const found = [await model.executeAsync(feed, outputs.map(([, { name }]) => name))].flat();
      const answers = {};
      for (const [at, [name]] of outputs.entries()) {
        answers[name] = modelkeep.packed(await found[at].data(), found[at].shape, found[at].dtype);
      }
      tf.dispose([feed, found]);
      return answers;
    },
  };
};
