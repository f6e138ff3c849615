// LiteRT.js, by WebAssembly: it takes a fixed batch alone.
modelkeep.programs.litert = async (read) => {
  const { loadLiteRt, loadAndCompile, Tensor } = await import('@litertjs/core');
  await loadLiteRt(modelkeep.litert);
  const model = await loadAndCompile(await read('model.tflite'), { accelerator: 'wasm' });
  const told = (details) => details.map(({ name, dtype, shape }) => ({ name, dtype, shape: Array.from(shape) }));
  return {
    inputs: told(model.getInputDetails()),
    outputs: told(model.getOutputDetails()),
    run: async (inputs) => {
      const feed = {};
      for (const [name, one] of Object.entries(inputs)) feed[name] = new Tensor(modelkeep.unpacked(one), one.shape);
      const found = await model.run(feed);
      const answers = {};
      for (const [name, tensor] of Object.entries(found)) {
        answers[name] = modelkeep.packed(tensor.toTypedArray(), Array.from(tensor.type.layout.dimensions), tensor.type.dtype);
      }
      for (const tensor of [...Object.values(feed), ...Object.values(found)]) tensor.delete();
      return answers;
    },
  };
};
