"""A page that runs a graph model in a browser, without a framework of pages and without a build."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>%(title)s</title>
<!-- The three libraries of @tensorflow: copy their dist/tf-*.min.js into the folder tfjs beside this page
     (npm install @tensorflow/tfjs-core@4.22.0 @tensorflow/tfjs-converter@4.22.0 @tensorflow/tfjs-backend-cpu@4.22.0
     @tensorflow/tfjs-backend-webgl@4.22.0), or point these at where you serve them from. -->
<script src="tfjs/tf-core.min.js"></script>
<script src="tfjs/tf-backend-cpu.min.js"></script>
<script src="tfjs/tf-backend-webgl.min.js"></script>
<script src="tfjs/tf-converter.min.js"></script>
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
  body { max-width: 44rem; margin: 3rem auto; padding: 0 1rem }
  textarea { width: 100%%; min-height: 9rem; box-sizing: border-box; font: 13px/1.4 ui-monospace, monospace }
  button, select { font: inherit; padding: .3rem .9rem }
  table { border-collapse: collapse; margin-top: 1rem } td, th { padding: .2rem 1rem .2rem 0; text-align: left }
  .top { font-weight: 700 } #error { color: #c33; white-space: pre-wrap }
</style>
<h1>%(title)s</h1>
<p>Inputs by name, first axis the examples:</p>
<textarea id="input" spellcheck="false">%(example)s</textarea>
<p><button id="run">Run</button> on <select id="backend"><option>webgl<option>cpu</select> <span id="took"></span></p>
<p id="error"></p>
<div id="answers"></div>
<script>
const labels = %(labels)s;
const by = id => document.getElementById(id);
let model, ready;
async function run() {
  by('error').textContent = '';
  try {
    if (ready !== by('backend').value) {
      await tf.setBackend(by('backend').value); await tf.ready();
      model = await tf.loadGraphModel('model.json'); ready = by('backend').value;
    }
    const signature = model.modelSignature, given = JSON.parse(by('input').value), feed = {};
    for (const [name, info] of Object.entries(signature.inputs)) {
      const dtype = {DT_FLOAT: 'float32', DT_INT32: 'int32', DT_BOOL: 'bool', DT_STRING: 'string'}[info.dtype];
      feed[info.name] = tf.tensor(given[name], undefined, dtype);
    }
    const names = Object.keys(signature.outputs), began = performance.now();
    const found = await model.executeAsync(feed, names.map(name => signature.outputs[name].name));
    const tensors = Array.isArray(found) ? found : [found];
    by('answers').innerHTML = '';
    for (let at = 0; at < names.length; at++) {
      const values = Array.from(await tensors[at].data()), top = values.indexOf(Math.max(...values));
      const table = document.createElement('table');
      table.createCaption().textContent = `${names[at]} [${tensors[at].shape}]`;
      values.slice(0, 40).forEach((value, index) => {
        const row = table.insertRow(); row.className = index === top ? 'top' : '';
        row.insertCell().textContent = (labels[names[at]] || [])[index] ?? index; row.insertCell().textContent = value;
      });
      by('answers').append(table);
    }
    by('took').textContent = `${(performance.now() - began).toFixed(1)} ms`;
    document.body.dataset.done = 'yes';
  } catch (error) { by('error').textContent = error.message; document.body.dataset.done = 'error' }
}
by('run').onclick = run;
</script>
</html>
"""


def page(name: str, example: dict[str, Any], labels: Mapping[str, Sequence[str]]) -> str:
    """The page: a text area with an example, a button, and the answers as tables with the largest value marked."""
    script = json.dumps(labels).replace("<", "\\u003c")
    return _PAGE % {"title": html.escape(name), "example": html.escape(json.dumps(example)), "labels": script}
