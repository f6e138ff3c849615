// onnxruntime-web, by WebAssembly on one thread.
modelkeep.programs.onnxruntime = async (read) => {
  const { ort } = globalThis;
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = 'fatal';
  const session = await ort.InferenceSession.create(await read('model.onnx'), { executionProviders: ['wasm'] });
  const told = (infos) => infos.map(({ name, type, shape }) => ({
    name, dtype: type, shape: (shape || []).map((axis) => (typeof axis === 'number' ? axis : -1)),
  }));
  return {
    inputs: told(session.inputMetadata),
    outputs: told(session.outputMetadata),
    run: async (inputs) => {
      const feed = {};
      for (const [name, one] of Object.entries(inputs)) {
        feed[name] = new ort.Tensor(one.dtype, modelkeep.unpacked(one), one.shape);
      }
      const found = await session.run(feed);
      const answers = {};
      for (const [name, tensor] of Object.entries(found)) {
        answers[name] = modelkeep.packed(await tensor.getData(), [...tensor.dims], tensor.type);
      }
      return answers;
    },
  };
};
