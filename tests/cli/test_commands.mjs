// The commands that look inside, as a script uses them: what they take, what they refuse, and with which status.
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, writeFileSync, rmSync, existsSync, lstatSync, openSync, closeSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import assert from 'node:assert/strict';
const bin = process.env.ALTISERVE_BIN;
const dir = mkdtempSync(join(tmpdir(), 'altiserve-commands-'));
const run = (args, input = '') => spawnSync(bin, args, { encoding: 'utf8', input, env: { PATH: process.env.PATH } });
const ok = (args, input) => {
  const r = run(args, input);
  assert.equal(r.status, 0, `${args.join(' ')}: ${r.stderr}`);
  return r.stdout;
};
const refused = (args, message, status) => {
  const r = run(args);
  assert.notEqual(r.status, 0, args.join(' '));
  if (status) assert.equal(r.status, status, args.join(' '));
  assert.equal(r.signal, null);
  assert.match(r.stderr, message);
};

// There and back, by pipe and by flag.
const text = 'How do I add\na model?';
const ids = ok(['tokenize', 'toy-1', '--text', text]).trim();
assert.match(ids, /^\d+( \d+)+$/);
assert.equal(ok(['detokenize', 'toy-1'], ids), text);
assert.equal(ok(['detokenize', 'toy-1', '--tokens', ids]), text);
assert.equal(ok(['tokenize', 'toy-1'], text).trim().split('\n').length, 2); // a line a record
assert.equal(ok(['detokenize', 'toy-1'], ''), '');
refused(['detokenize', 'toy-1', '--tokens', '1 x'], /"x"/);
assert.equal(ok(['detokenize', 'toy-1'], `${ids}\r\n`), text); // a file from Windows

// A folder that was named must be there; a broken file is an error to a script, too.
const file = join(dir, 'broken.gguf');
writeFileSync(file, 'this is no model');
refused(['tokenize', 'toy-1', '--models', join(dir, 'nowhere'), '--text', 'x'], /no such folder/);
refused(['serve', '--port', '0', '--models', file], /no such folder/);
for (const more of [[], ['--json']]) {
  const r = run(['inspect', file, ...more]);
  assert.equal(r.status, 1);
  assert.match(r.stdout, /broken/);
}
assert.match(ok(['inspect', 'toy-1']), /toy-1/);

// A script's variable that was never set names nothing: not the only model there is, nor a cache that is off.
refused(['inspect', ''], /"" names nothing; usage: altiserve inspect MODEL/, 2);
refused(['run', '', 'Hello!'], /"" names nothing/, 2);
refused(['quantize', file, '', 'Q8_0'], /"" names nothing/, 2);
refused(['run', 'toy-1', ''], /the prompt is empty/, 2);
refused(['run', 'toy-1'], /the prompt is empty/, 2); // nothing was piped in
refused(['generate', 'toy-1', '--text', 'Hi', '--draft', ''], /--draft is empty: it takes MODEL/, 2);
refused(['run', 'toy-1', 'Hi', '--cache-dir='], /--cache-dir is empty: it takes DIR/, 2);
assert.equal(ok(['run', 'toy-1', '', '-', '--n', '4', '--temp', '0'], 'Hello!'), ok(['run', 'toy-1', 'Hello!', '--n', '4', '--temp', '0']));

// MODEL is a path, whatever it is called, of a file.
refused(['inspect', dir], /is a folder; name a \.gguf file in it/, 1);
const toy = new URL('../../tools/toy/toy-1.gguf', import.meta.url).pathname;
copyFileSync(toy, join(dir, 'plain'));
assert.match(spawnSync(bin, ['inspect', 'plain'], { encoding: 'utf8', cwd: dir }).stdout, /^id +plain$/m);

// A chunk of which nothing is scored has no perplexity.
const words = join(dir, 'words.txt');
writeFileSync(words, 'How do I add a model? '.repeat(20));
for (const few of ['0', '1', '2']) refused(['perplexity', 'toy-1', '--file', words, '--context', few], /at least 3/);
assert.match(ok(['perplexity', 'toy-1', '--file', words, '--context', '3']), /"perplexity": \d/);

// What stands at OUT and is no file (a device, a pipe) is left alone.
const pipe = join(dir, 'pipe');
assert.equal(spawnSync('mkfifo', [pipe]).status, 0);
refused(['quantize', toy, pipe, 'Q8_0'], /is not a file/);
assert.ok(lstatSync(pipe).isFIFO());

// Output that did not arrive is an error.
if (existsSync('/dev/full'))
  for (const args of [['help'], ['--version'], ['run', '--help'], ['inspect', 'toy-1'], ['tokenize', 'toy-1', '--text', 'x'], ['generate', 'toy-1', '--text', 'Hi', '--n', '2']]) {
    const full = openSync('/dev/full', 'w');
    const r = spawnSync(bin, args, { encoding: 'utf8', stdio: ['ignore', full, 'pipe'], env: { PATH: process.env.PATH } });
    closeSync(full);
    assert.equal(r.status, 1, args.join(' '));
    assert.match(r.stderr, /could not be written/, args.join(' '));
  }

// The documents name no command and no flag that is not there, and the README every command.
const repository = new URL('../../', import.meta.url);
const text_of = (path) => readFileSync(new URL(path, repository), 'utf8');
const commands = [...ok(['help']).matchAll(/^  ([a-z]+) /gm)].map((m) => m[1]);
const flags = new Set(['--help', ...commands.flatMap((c) => ok([c, '--help']).match(/^  --[a-z-]+/gm).map((f) => f.trim()))]);
for (const c of commands) assert.match(text_of('README.md'), new RegExp(`\`(altiserve )?${c}\\b`), c);
for (const path of ['README.md', 'docs/API.md', 'docs/ARCHITECTURE.md', 'tools/toy/facts.txt']) {
  const said = text_of(path);
  for (const [flag] of said.matchAll(/(?<![\w-])--[a-z][a-z-]+/g)) assert.ok(flags.has(flag), `${path}: ${flag}`);
  for (const [, c] of said.matchAll(/(?:`|build\/)altiserve ([a-z]+)/g)) assert.ok(commands.includes(c), `${path}: altiserve ${c}`);
}

rmSync(dir, { recursive: true });
console.log('commands: all passed');
