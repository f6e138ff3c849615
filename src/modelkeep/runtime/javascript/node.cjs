// Jobs are lines of JSON on stdin, answers lines on stdout; the end of stdin ends it.
require('./programs.js');
const fs = require('fs');
const path = require('path');

const LIBRARIES = {
  tfjs: ({ backend }) => {
    require(`@tensorflow/tfjs-backend-${backend}`);
    globalThis.tf = { ...require('@tensorflow/tfjs-core'), ...require('@tensorflow/tfjs-converter') };
  },
  onnxruntime: () => { globalThis.ort = require('onnxruntime-web'); },
};

async function main() {
  const write = fs.writeSync.bind(fs, 1);
  console.log = console.info = console.warn = () => {};
  let read;
  for await (const line of require('readline').createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    const job = JSON.parse(line);
    if (job.open !== undefined) {
      LIBRARIES[job.open](job);
      require(`./${job.open}.js`);
      read = async (name) => new Uint8Array(fs.readFileSync(job.file || path.join(job.folder, name)));
    }
    const told = Buffer.from(`${JSON.stringify(await modelkeep.answer(job, read))}\n`);
    for (let at = 0; at < told.length;) at += write(told, at);
  }
}

main().catch((error) => {
  console.error(error.stack);
  process.exit(1);
});
