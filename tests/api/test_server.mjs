// The whole server over real sockets, with toy-1: formats, determinism, stop strings, refusals, clients that leave, many at once, signals, TLS.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const dir = mkdtempSync(join(tmpdir(), 'altiserve-server-'));
const children = [];

// Starts the program and waits for its address.
async function serve(...flags) {
  const models = flags.includes('--models') ? [] : ['--models', dir];
  const child = spawn(process.env.ALTISERVE_BIN, ['serve', '--port', '0', ...models, '--log-level', 'error', '--deterministic', ...flags],
    { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  child.ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
  let text = '';
  const url = await new Promise((resolve, reject) => {
    child.stdout.on('data', (part) => {
      const found = (text += part).match(/listening on (\S+)/);
      if (found) resolve(found[1]);
    });
    child.ended.then((how) => reject(new Error(`the server ended: ${JSON.stringify(how)}`)));
  });
  return { child, url, port: Number(new URL(url).port), text: () => text };
}

const server = await serve();
const { url } = server;

async function post(path, body, headers = {}) {
  const response = await fetch(url + path, { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body), headers });
  const text = await response.text();
  let json;
  try { json = JSON.parse(text); } catch { /* a stream */ }
  return { status: response.status, headers: response.headers, text, json };
}
const ask = (content, more = {}) => post('/v1/chat/completions', { model: 'toy-1', messages: [{ role: 'user', content }], temperature: 0, max_tokens: 60, ...more });

// The events of an SSE body, checked for framing.
function events(text) {
  const parts = text.split('\n\n').filter((p) => p && !p.startsWith(':'));
  assert.equal(parts.at(-1), 'data: [DONE]');
  return parts.slice(0, -1).map((p) => (assert.ok(p.startsWith('data: ')), JSON.parse(p.slice(6))));
}
function gather(list, index = 0) {
  let text = '', finish = null;
  for (const e of list)
    for (const c of e.choices)
      if (c.index === index) {
        assert.equal(finish, null);
        text += c.delta ? c.delta.content ?? '' : c.text;
        finish = c.finish_reason;
      }
  return { text, finish };
}
async function metrics(from = url) {
  const text = await (await fetch(`${from}/metrics`)).text();
  // The series of that name, or the sum over all labels.
  return (name) => text.split('\n').filter((l) => l.startsWith(`${name} `) || l.startsWith(`${name}{`)).reduce((n, l) => n + Number(l.slice(l.lastIndexOf(' '))), 0);
}
const ABORTED = 'vllm:request_success_total{model_name="toy-1",finished_reason="abort"}';
// Polls until the condition holds; the deadline is far beyond what any machine needs.
async function until(what, condition) {
  const end = Date.now() + 60000;
  while (!(await condition())) {
    assert.ok(Date.now() < end, `never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const tests = {
  async 'models, health, root'() {
    const models = await (await fetch(`${url}/v1/models`)).json();
    assert.deepEqual(models.data.map((m) => m.id), ['toy-1']);
    assert.equal((await (await fetch(`${url}/v1/models/toy-1`)).json()).id, 'toy-1');
    assert.equal((await (await fetch(`${url}/health`)).json()).status, 'ok');
    assert.equal(await (await fetch(url)).text(), 'Ollama is running');
    assert.match(server.text(), /serving toy-1/);
  },

  async 'a stream says what the whole answer says'() {
    for (const more of [{}, { temperature: 1, seed: 11 }, { temperature: 1.5, seed: 12, top_p: 0.9, top_k: 40, n: 2 }]) {
      const whole = await ask('How do I add a model?', more);
      const stream = await ask('How do I add a model?', { ...more, stream: true, stream_options: { include_usage: true } });
      assert.equal(whole.status, 200);
      assert.match(stream.headers.get('content-type'), /text\/event-stream/);
      const list = events(stream.text);
      for (const choice of whole.json.choices) {
        const got = gather(list, choice.index);
        assert.equal(got.text, choice.message.content);
        assert.equal(got.finish, choice.finish_reason);
      }
      assert.deepEqual([list.at(-1).usage.prompt_tokens, list.at(-1).usage.completion_tokens], [whole.json.usage.prompt_tokens, whole.json.usage.completion_tokens]);
      assert.ok(list.slice(0, -1).every((e) => e.usage === null));
      const plain = await ask('How do I add a model?', { ...more, stream: true });
      for (const { timings: t } of [whole.json, list.at(-1), events(plain.text).at(-1)]) {
        assert.equal(t.cache_n + t.prompt_n, whole.json.usage.prompt_tokens);
        assert.equal(t.predicted_n, whole.json.usage.completion_tokens);
        assert.ok(t.prompt_ms > 0 && t.predicted_ms > 0 && t.predicted_per_second > 0);
      }
    }
    const whole = await post('/v1/completions', { prompt: 'altiserve is', max_tokens: 20, temperature: 0, echo: true });
    const stream = await post('/v1/completions', { prompt: 'altiserve is', max_tokens: 20, temperature: 0, echo: true, stream: true });
    assert.ok(whole.json.choices[0].text.startsWith('altiserve is'));
    assert.equal(gather(events(stream.text)).text, whole.json.choices[0].text);
  },

  async 'seeds'() {
    const say = async (seed) => (await ask('Tell me a story.', { temperature: 1.5, seed, max_tokens: 40 })).json.choices[0].message.content;
    const first = await say(5);
    assert.equal(await say(5), first);
    assert.notEqual(await say(6), first);
    const two = (await ask('Tell me a story.', { temperature: 1.5, seed: 5, n: 2, max_tokens: 40 })).json;
    assert.equal(two.choices.length, 2);
    assert.notEqual(two.choices[0].message.content, two.choices[1].message.content);
    assert.equal(two.choices[0].message.content, first); // the first choice is what n=1 would have said
    const greedy = (await ask('Hello!', { n: 2 })).json.choices;
    assert.equal(greedy[0].message.content, greedy[1].message.content);
  },

  async 'max_tokens, stop strings'() {
    const full = (await ask('Hello!')).json.choices[0];
    assert.equal(full.finish_reason, 'stop');
    const short = (await ask('Hello!', { max_tokens: 3 })).json;
    assert.equal(short.choices[0].finish_reason, 'length');
    assert.equal(short.usage.completion_tokens, 3);
    assert.ok(full.message.content.startsWith(short.choices[0].message.content));
    // Every place a stop string of five characters can be, across borders of tokens too: nothing of it, and nothing behind it, may show.
    for (let at = 4; at + 5 < Math.min(full.message.content.length, 40); at += 3) {
      const stop = full.message.content.slice(at, at + 5), want = full.message.content.slice(0, full.message.content.indexOf(stop));
      const got = (await ask('Hello!', { stop: ['never seen', stop] })).json.choices[0];
      assert.equal(got.message.content, want);
      assert.equal(got.finish_reason, 'stop');
      assert.equal(gather(events((await ask('Hello!', { stop, stream: true })).text)).text, want);
      const asked = { model: 'toy-1', messages: [{ role: 'user', content: 'Hello!' }], max_tokens: 60, temperature: 0, stop_sequences: ['never seen', stop] };
      const { json } = await post('/v1/messages', asked);
      assert.deepEqual([json.content[0].text, json.stop_reason, json.stop_sequence], [want, 'stop_sequence', stop]);
    }
  },

  async 'logprobs'() {
    const plain = (await ask('Hello!')).json.choices[0];
    const { content } = (await ask('Hello!', { logprobs: true, top_logprobs: 3 })).json.choices[0].logprobs;
    assert.equal(Buffer.from(content.flatMap((t) => t.bytes)).toString().trimEnd(), plain.message.content.trimEnd());
    for (const t of content) {
      assert.equal(t.top_logprobs.length, 3);
      assert.equal(t.token, t.top_logprobs[0].token); // greedy takes the best
      assert.ok(t.logprob <= 0 && t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob && t.top_logprobs[1].logprob >= t.top_logprobs[2].logprob);
    }
    const streamed = events((await ask('Hello!', { logprobs: true, top_logprobs: 3, stream: true })).text).flatMap((e) => e.choices[0]?.logprobs?.content ?? []);
    assert.deepEqual(streamed, content);
    const old = (await post('/v1/completions', { prompt: 'Hello', max_tokens: 5, temperature: 0, logprobs: 2 })).json.choices[0].logprobs;
    assert.equal(old.tokens.length, 5);
    assert.equal(old.text_offset[1], old.tokens[0].length);
    const banned = (await post('/tokenize', { content: old.tokens[0] })).json.tokens[0];
    const other = (await post('/v1/completions', { prompt: 'Hello', max_tokens: 5, temperature: 0, logprobs: 2, logit_bias: { [banned]: -100 } })).json.choices[0].logprobs;
    assert.notEqual(other.tokens[0], old.tokens[0]);
    assert.equal(other.top_logprobs[0][old.tokens[0]], old.token_logprobs[0]); // of the raw distribution, bias or not
  },

  async 'text and ids'() {
    for (const text of ['hello world', 'Grüße, 世界 🌍\n\n  tabs\t', '']) {
      const { json } = await post('/tokenize', { content: text });
      assert.equal((await post('/detokenize', { tokens: json.tokens })).json.content, text);
    }
    const { tokens } = (await post('/tokenize', { content: 'Once upon a time', add_special: true })).json;
    const text = await post('/v1/completions', { prompt: 'Once upon a time', max_tokens: 10, temperature: 0 });
    const ids = await post('/v1/completions', { prompt: tokens, max_tokens: 10, temperature: 0 });
    assert.equal(ids.json.choices[0].text, text.json.choices[0].text);
    const both = await post('/v1/completions', { prompt: ['Once upon a time', 'Hello'], max_tokens: 10, temperature: 0 });
    assert.equal(both.json.choices[0].text, text.json.choices[0].text);
    assert.match((await post('/apply-template', { messages: [{ role: 'user', content: 'hi there' }] })).json.prompt, /hi there/);
    // A message that spells a control token stays text: it takes more tokens than the token itself would.
    const spelled = (await ask('<|im_end|>', { max_tokens: 1 })).json.usage.prompt_tokens, word = (await ask('x', { max_tokens: 1 })).json.usage.prompt_tokens;
    assert.ok(spelled > word + 2, `${spelled} tokens for a spelled control token, ${word} for a letter`);
  },

  async 'other dialects'() {
    const want = (await ask('Hello!')).json.choices[0].message.content, messages = [{ role: 'user', content: 'Hello!' }];
    const ollama = await post('/api/chat', { model: 'toy-1:latest', messages, options: { temperature: 0 } });
    assert.equal(ollama.text.trim().split('\n').map((l) => JSON.parse(l).message.content).join(''), want);
    const whole = await post('/api/generate', { model: 'toy-1', prompt: 'Hello!', stream: false, options: { temperature: 0 } });
    assert.equal(whole.json.response, want);
    const anthropic = await post('/v1/messages', { model: 'toy-1', messages, max_tokens: 60, temperature: 0 });
    assert.equal(anthropic.json.content[0].text, want);
    assert.equal(anthropic.json.stop_reason, 'end_turn');
    for (const content of ['Hello!', 'Hello <|im_end|><|im_end|> x']) { // what is counted beforehand is what is reported afterwards
      const asked = { model: 'toy-1', messages: [{ role: 'user', content }], system: 'Be <|im_start|> brief.' };
      const { usage } = (await post('/v1/messages', { ...asked, max_tokens: 1 })).json;
      assert.equal((await post('/v1/messages/count_tokens', asked)).json.input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
    }
    assert.equal((await (await fetch(`${url}/api/tags`)).json()).models[0].name, 'toy-1');
  },

  async 'an answer goes on with the last message'() {
    const user = { role: 'user', content: 'How do I add a model?' }, plain = { model: 'toy-1', max_tokens: 60, temperature: 0 };
    const full = (await post('/v1/messages', { ...plain, messages: [user] })).json;
    const text = full.content[0].text, at = text.indexOf(' ', 12), begun = { role: 'assistant', content: text.slice(0, at) };
    const rest = (await post('/v1/messages', { ...plain, messages: [user, begun] })).json;
    assert.equal(begun.content + rest.content[0].text, text);
    const prompt = ({ usage }) => usage.input_tokens + usage.cache_read_input_tokens;
    assert.equal(prompt(rest) + rest.usage.output_tokens, prompt(full) + full.usage.output_tokens); // nothing stands between
    assert.equal((await post('/v1/messages/count_tokens', { model: 'toy-1', messages: [user, begun] })).json.input_tokens, prompt(rest));
    assert.equal((await post('/v1/messages', { ...plain, messages: [user, { ...begun, content: '' }] })).json.content[0].text, text);
    const on = { ...plain, messages: [user, begun], continue_final_message: true, add_generation_prompt: false };
    assert.equal((await post('/v1/chat/completions', on)).json.choices[0].message.content, rest.content[0].text);
    assert.equal(gather(events((await post('/v1/chat/completions', { ...on, stream: true })).text)).text, rest.content[0].text);
    assert.notEqual((await post('/v1/chat/completions', { ...plain, messages: [user, begun] })).json.choices[0].message.content, rest.content[0].text);
    assert.equal((await post('/api/chat', { ...plain, messages: [user, begun], stream: false })).json.message.content, rest.content[0].text); // as Ollama's templates have it
    const { json } = await post('/apply-template', on);
    assert.ok(json.prompt.endsWith(begun.content));
  },

  async 'request ids'() {
    for (const [path, body] of [['/v1/chat/completions', { messages: [] }], ['/v1/messages', {}], ['/api/chat', '{'], ['/nowhere', {}]]) {
      const made = await post(path, body), given = await post(path, body, { 'x-request-id': 'trace-17' });
      assert.match(made.headers.get('x-request-id'), /^req_[0-9a-f]{32}$/);
      assert.equal(made.headers.get('request-id'), made.headers.get('x-request-id'));
      assert.equal(given.headers.get('x-request-id'), 'trace-17');
      assert.equal(given.json.request_id, path === '/v1/messages' ? 'trace-17' : undefined);
    }
  },

  async 'models are loaded and unloaded as Ollama has it'() {
    const other = await serve();
    const get = async (path) => (await fetch(other.url + path)).json();
    const send = (path, body) => fetch(other.url + path, { method: 'POST', body: JSON.stringify({ model: 'toy-1:latest', ...body }) });
    const told = async (path, body) => { const r = await send(path, body); return [r.status, (await r.json()).done_reason]; };
    const residents = async () => (await get('/api/ps')).models;
    for (const [path, empty] of [['/api/generate', { prompt: '' }], ['/api/chat', { messages: [] }]]) {
      assert.deepEqual(await residents(), []);
      assert.equal((await get('/v1/models')).data[0].max_model_len, undefined);
      assert.deepEqual(await told(path, empty), [200, 'load']);
      const [there] = await residents(), tag = (await get('/api/tags')).models[0], m = await metrics(other.url);
      assert.deepEqual([there.name, there.digest, there.details, there.size_vram], [tag.name, tag.digest, tag.details, 0]);
      assert.equal(there.size, m('altiserve_memory_used_bytes'));
      assert.equal((await get('/v1/models')).data[0].max_model_len, there.context_length);
      assert.deepEqual(await told(path, { ...empty, keep_alive: '0s' }), [200, 'unload']);
      assert.equal((await metrics(other.url))('altiserve_memory_used_bytes'), 0);
    }
    // Who streams keeps it; when its client has left it goes.
    const work = { prompt: Array.from({ length: 64 }, (_, i) => `Story ${i}.`), n: 4, max_tokens: 400, ignore_eos: true, stream: true };
    const stream = await send('/v1/completions', { ...work, model: 'toy-1' });
    const reader = stream.body.getReader();
    await reader.read();
    assert.deepEqual(await told('/api/generate', { keep_alive: 0 }), [409, undefined]);
    await reader.cancel();
    await until('it is unloaded', async () => (await told('/api/chat', { keep_alive: 0 }))[0] === 200);
    assert.deepEqual(await residents(), []);
    assert.match((await (await send('/api/show', {})).json()).template, /messages/);
    other.child.kill('SIGTERM');
    assert.deepEqual(await other.child.ended, { code: 0, signal: null });
  },

  async 'refusals'() {
    const ok = { model: 'toy-1', messages: [{ role: 'user', content: 'hi' }] };
    const cases = [
      ['', 400, null], ['{', 400, null], ['[1]', 400, null], ['{"messages":[],"messages":[]}', 400, null], ['{"temperature":NaN}', 400, null],
      [{ model: 'toy-1' }, 400, 'messages'], [{ ...ok, messages: 'hi' }, 400, 'messages'], [{ ...ok, messages: [{ role: 'user', content: 7 }] }, 400, 'messages[0].content'],
      [{ ...ok, model: 'nobody' }, 404, 'model'], [{ ...ok, model: '../../etc/passwd' }, 404, 'model'], [{ ...ok, max_tokens: 0 }, 400, 'max_tokens'],
      [{ ...ok, max_tokens: 1e15 }, 400, 'max_tokens'], [{ ...ok, max_tokens: 'many' }, 400, 'max_tokens'],
      [{ ...ok, n: 17 }, 400, 'n'], [{ ...ok, temperature: 9 }, 400, 'temperature'],
      [{ ...ok, top_p: -1 }, 400, 'top_p'], [{ ...ok, stop: [''] }, 400, 'stop'], [{ ...ok, logit_bias: { 99999: 1 } }, 400, 'logit_bias'], [{ ...ok, tools: [{}] }, 400, 'tools'],
      [{ ...ok, response_format: { type: 'json_object' } }, 400, 'response_format'], [{ ...ok, messages: [{ role: 'user', content: 'long '.repeat(5000) }] }, 400, 'messages'],
    ];
    for (const [body, status, param] of cases) {
      const got = await post('/v1/chat/completions', body);
      assert.equal(got.status, status, `${JSON.stringify(body).slice(0, 100)}: ${got.text}`);
      assert.equal(typeof got.json.error.message, 'string');
      assert.equal(got.json.error.param, param, got.text);
    }
    const long = await post('/v1/completions', { model: 'toy-1', prompt: 'long '.repeat(5000) });
    assert.deepEqual([long.status, long.json.error.param, long.json.error.code], [400, 'prompt', 'context_length_exceeded']);
    assert.equal((await fetch(`${url}/nowhere`)).status, 404);
    assert.equal((await fetch(`${url}/v1/chat/completions`)).status, 405);
    // A foreign Host, and a body of 200 MB that is announced or comes in chunks.
    const raw = (head) => new Promise((resolve) => {
      const socket = net.connect(server.port, '127.0.0.1', () => socket.write(head));
      let text = '';
      socket.on('data', (part) => (text += part));
      socket.on('error', () => {});
      socket.on('close', () => resolve(text));
    });
    assert.match(await raw('GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n'), /^HTTP\/1.1 403 /);
    assert.match(await raw('POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 209715200\r\n\r\n{'), /^HTTP\/1.1 413 /);
    assert.match(await raw('POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'), /^HTTP\/1.1 400 /);
  },

  async 'a client that leaves stops its generation'() {
    // So much work that no machine ends it first: 64 prompts, 4 choices each.
    const work = { prompt: Array.from({ length: 64 }, (_, i) => `Story ${i}.`), n: 4, max_tokens: 400, ignore_eos: true };
    // And 200 prompts that nearly fill the context, of which no two begin alike, for one token each: who leaves then leaves while prompts are read.
    const { tokens } = (await post('/tokenize', { content: 'Once upon a time there was a fox. '.repeat(60) })).json;
    const reading = { prompt: Array.from({ length: 200 }, (_, i) => [i + 300, ...tokens.slice(0, 480)]), max_tokens: 1 };
    const ROWS = 'altiserve_step_tokens_sum{model_name="toy-1"}', all = { reading: 200 * 481 }; // what would be computed for who stays
    let aborted = (await metrics())(ABORTED);
    for (const how of ['streamed', 'whole', 'half-closed', 'reading']) {
      const before = (await metrics())(ROWS);
      const body = JSON.stringify(how === 'reading' ? reading : { ...work, stream: how !== 'whole' });
      const socket = net.connect({ port: server.port, host: '127.0.0.1', allowHalfOpen: true });
      socket.on('error', () => {});
      socket.resume();
      socket.write(`POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
      await until('the work begins', async () => (await metrics())('vllm:num_requests_running') > 0);
      if (how === 'half-closed') socket.end();
      else socket.destroy();
      await until(`${how}: the work stops`, async () => { const m = await metrics(); return m('vllm:num_requests_running') + m('vllm:num_requests_waiting') === 0; });
      aborted++;
      await until(`${how}: counted`, async () => (await metrics())(ABORTED) === aborted);
      const m = await metrics();
      assert.ok(m(ROWS) - before < (all[how] ?? 64 * 4 * 400) / 2, `${how}: ${m(ROWS) - before} rows were computed for nobody`);
      assert.equal(m('altiserve_kv_pages{model_name="toy-1",state="used"}'), 0);
      assert.ok(m('altiserve_kv_pages') > 0);
      socket.destroy();
    }
    assert.equal((await ask('Hello!')).status, 200);
  },

  async 'who behaves badly disturbs nobody'() {
    const want = (await ask('How do I add a model?')).json.choices[0].message.content, sockets = [];
    const raw = (...pieces) => {
      const socket = net.connect(server.port, '127.0.0.1');
      socket.on('error', () => {});
      for (const piece of pieces) socket.write(piece);
      sockets.push(socket);
      return socket;
    };
    const body = JSON.stringify({ prompt: ['a', 'b', 'c', 'd'], n: 8, max_tokens: 400, ignore_eos: true, stream: true });
    for (let i = 0; i < 8; i++) {
      raw();                                                                                       // says nothing
      raw('POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Endless: ', 'x'.repeat(100)); // headers that never end
      raw('POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"mess'); // a body that never ends
      raw('POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 209715200\r\n\r\n', Buffer.alloc(1 << 20)); // too large
      raw('\x16\x03\x01 not HTTP at all\r\n\r\n');
      const half = raw('GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n');
      half.end();
    }
    raw(`POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`).pause(); // a stream that nobody reads
    const got = await Promise.all(Array.from({ length: 8 }, () => ask('How do I add a model?', { stream: true })));
    for (const one of got) assert.equal(gather(events(one.text)).text, want);
    for (const socket of sockets) socket.destroy();
    await until('all is quiet', async () => { const m = await metrics(); return m('vllm:num_requests_running') === 0 && m('altiserve_http_connections') < 12; });
  },

  async 'the models folder'() {
    const folder = mkdtempSync(join(tmpdir(), 'altiserve-folder-')), toy = join(process.env.SOURCE_DIR ?? '.', 'tools/toy/toy-1.gguf');
    const one = await serve('--models', folder);
    const list = async () => (await (await fetch(`${one.url}/v1/models`)).json()).data.map((m) => m.id).join();
    const say = (model) => fetch(`${one.url}/v1/completions`, { method: 'POST', body: JSON.stringify({ model, prompt: 'Hello', max_tokens: 8, temperature: 0 }) });
    assert.equal(await list(), 'toy-1');
    copyFileSync(toy, join(folder, 'mine.gguf'));
    writeFileSync(join(folder, 'garbage.gguf'), 'not a model');
    writeFileSync(join(folder, 'half.gguf'), readFileSync(toy).subarray(0, 500000));
    await until('the new file shows, what cannot be served does not', async () => (await list()) === 'mine');
    const text = (await (await say('mine')).json()).choices[0].text;
    assert.equal(text, (await (await say('toy-1')).json()).choices[0].text);
    for (const name of ['garbage', 'half']) {
      const refused = await say(name);
      assert.equal(refused.status, 503);
      assert.equal((await refused.json()).error.param, 'model');
      const waits = ['retry-after', 'x-should-retry'].map((field) => refused.headers.get(field)); // garbage stays what it is; a half may become whole
      assert.deepEqual(waits, name === 'half' ? ['5', null] : [null, 'false']);
    }
    copyFileSync(toy, join(folder, 'half.gguf')); // the copy is complete now
    await until('a file that was being copied shows once it is whole', async () => (await list()) === 'half,mine');
    assert.equal((await say('half')).status, 200);
    // A file overwritten while it serves: who streams goes on to the end.
    const long = JSON.stringify({ model: 'mine', prompt: ['a', 'b', 'c', 'd'], n: 8, max_tokens: 300, ignore_eos: true, stream: true, temperature: 0 });
    let overwritten = false, streamed = '';
    const response = await fetch(`${one.url}/v1/completions`, { method: 'POST', body: long });
    for await (const part of response.body) {
      if (!overwritten) writeFileSync(join(folder, 'mine.gguf'), 'garbage');
      overwritten = true;
      streamed += Buffer.from(part).toString('latin1');
    }
    for (let i = 0; i < 32; i++) assert.equal(gather(events(streamed), i).finish, 'length');
    await until('the overwritten file shows no more', async () => (await list()) === 'half');
    rmSync(join(folder, 'half.gguf'));
    await until('a removed file shows no more', async () => !(await list()).includes('half'));
    one.child.kill('SIGTERM');
    assert.equal((await one.child.ended).code, 0);
    rmSync(folder, { recursive: true });
  },

  async 'thirty-two at once'() {
    const questions = ['Hello!', 'How do I add a model?', 'What port does it use?', 'Tell me a story.'];
    const alone = await Promise.all(questions.map(async (q) => (await ask(q)).json.choices[0].message.content));
    await Promise.all(Array.from({ length: 32 }, async (_, i) => {
      const got = await ask(questions[i % 4], { stream: true });
      assert.equal(gather(events(got.text)).text, alone[i % 4]); // whatever else runs in the batch
    }));
    const m = await metrics();
    assert.equal(m('vllm:num_requests_running'), 0);
    assert.ok(m('vllm:time_to_first_token_seconds_count{model_name="toy-1"}') > 32);
  },

  async 'whose pages and which hosts'() {
    const open = await serve('--cors-origin', 'https://app.example', '--allowed-host', 'chat.example');
    const get = (to, headers) => new Promise((resolve, reject) => http.get({ host: '127.0.0.1', port: to.port, path: '/health', headers, agent: false }, (r) => {
      r.resume();
      resolve([r.statusCode, r.headers['access-control-allow-origin']]);
    }).on('error', reject));
    assert.deepEqual(await get(open, { Host: 'chat.example', Origin: 'https://app.example' }), [200, 'https://app.example']);
    assert.deepEqual(await get(open, { Host: 'chat.example:443' }), [200, undefined]);
    assert.deepEqual(await get(open, { Host: 'other.example' }), [403, undefined]);
    assert.deepEqual(await get(open, { Origin: 'https://other.example' }), [403, undefined]);
    assert.deepEqual(await get(server, { Host: 'chat.example' }), [403, undefined]);
    assert.deepEqual(await get(server, { Origin: 'https://app.example' }), [403, undefined]);
    open.child.kill('SIGTERM');
    assert.deepEqual(await open.child.ended, { code: 0, signal: null });
  },

  async 'why a prompt was computed'() {
    const explain = { altiserve: { explain: true }, max_tokens: 4 };
    const text = 'Once upon a time there was a server with a long memory, and it kept every page that it had read, and told nobody. '.repeat(3);
    const why = async (content, more = {}, headers = {}) =>
      (await post('/v1/chat/completions', { model: 'toy-1', messages: [{ role: 'user', content }], temperature: 0, ...explain, ...more }, headers)).json.altiserve.explain[0];
    assert.equal((await why(text)).why === 'never_seen' || (await why(text)).why === 'cached', true);
    const again = await why(text);
    assert.equal(again.why, 'cached');
    assert.ok(again.cached_tokens >= 32 && again.computed_tokens <= 32 && again.prompt_tokens === again.cached_tokens + again.computed_tokens);
    assert.equal((await why('Hi')).why, 'shorter_than_a_page');
    const other = await why(text.slice(0, 150) + 'BUT THEN it forgot all of it. ' + text);
    assert.equal(other.why, 'differs');
    assert.ok(other.same_tokens >= other.cached_tokens && other.same_tokens < other.cached_tokens + 32);
    assert.match(other.first_difference.this_prompt, /BUT/);
    assert.doesNotMatch(other.first_difference.earlier_prompt, /BUT/);
    // another salt: nothing is shared, and nothing is told
    assert.equal((await why(text, { cache_salt: 'mine' })).why, 'never_seen');
    assert.equal((await why(text, { cache_salt: 'mine' })).why, 'cached');
    const streamed = events((await ask(text, { ...explain, stream: true })).text).at(-1);
    assert.deepEqual(streamed.choices, []);
    assert.equal(streamed.altiserve.explain[0].why, 'cached');
    for (const [body, param] of [[{ altiserve: { explain: 1 } }, 'altiserve.explain'], [{ altiserve: { other: true } }, 'altiserve'], [{ cache_salt: '' }, 'cache_salt'],
      [{ priority: 'high' }, 'priority'], [{ priority: 1e12 }, 'priority']]) {
      const bad = await ask('Hello!', body);
      assert.equal(bad.status, 400);
      assert.equal(bad.json.error.param, param);
    }
  },

  async 'answers that are replayed'() {
    const kept = await serve('--response-cache', '8');
    const send = (path, body) => fetch(kept.url + path, { method: 'POST', body: JSON.stringify(body) })
      .then(async (r) => ({ hit: r.headers.get('cache-status'), status: r.status, text: await r.text() }));
    const chat = { model: 'toy-1', messages: [{ role: 'user', content: 'Which port does it use?' }], temperature: 0, max_tokens: 30 };
    const first = await send('/v1/chat/completions', chat), second = await send('/v1/chat/completions', { ...chat, user: 'someone else' });
    assert.equal(first.hit, null);
    assert.equal(second.hit, 'altiserve; hit');
    const what = ({ text }) => { const { choices, usage } = JSON.parse(text); return { choices, usage }; };
    assert.deepEqual(what(second), what(first));
    const streamed = await send('/v1/chat/completions', { ...chat, stream: true }); // the whole answer, as a stream
    assert.equal(streamed.hit, 'altiserve; hit');
    assert.deepEqual(gather(events(streamed.text)), { text: JSON.parse(first.text).choices[0].message.content, finish: JSON.parse(first.text).choices[0].finish_reason });
    for (const more of [{ cache_salt: 'x' }, { max_tokens: 29 }, { temperature: 0.5, seed: 3 }, { temperature: 0.5 }])
      assert.equal((await send('/v1/chat/completions', { ...chat, ...more })).hit, null, JSON.stringify(more));
    assert.equal((await send('/v1/chat/completions', { ...chat, temperature: 0.5 })).hit, null); // nobody gave a seed
    assert.equal((await send('/v1/chat/completions', { ...chat, temperature: 0.5, seed: 3 })).hit, 'altiserve; hit');
    const two = { model: 'toy-1', prompt: ['Hello', 'Which'], temperature: 0, max_tokens: 5 };
    await send('/v1/completions', { ...two, prompt: 'Hello' });
    assert.equal((await send('/v1/completions', two)).hit, null); // a half is not the whole
    assert.equal((await send('/v1/completions', two)).hit, 'altiserve; hit');
    const m = await metrics(kept.url);
    assert.equal(m('altiserve_response_cache_requests_total{model_name="toy-1",result="hit"}'), 6);
    assert.ok(m('altiserve_response_cache_entries') === 6 && m('altiserve_response_cache_bytes') > 100);
    kept.child.kill('SIGTERM');
    await kept.child.ended;
    const plain = await ask('Which port does it use?');
    assert.equal((await ask('Which port does it use?')).headers.get('cache-status'), null); // off unless asked for
    assert.equal(plain.status, 200);
  },

  async 'drafts'() {
    const drafting = await serve('--speculate', 'always', '--draft-max', '4'), plain = await serve('--speculate', 'off');
    const prompt = 'one two three one two three one two three';
    const send = (server, more = {}) => fetch(`${server.url}/completion`,
      { method: 'POST', body: JSON.stringify({ prompt, n_predict: 60, ignore_eos: true, temperature: 0.4, seed: 1, ...more }) });
    const x = await (await send(drafting)).json(), y = await (await send(plain)).json(), z = await (await send(drafting, { 'speculative.n_max': 0 })).json();
    assert.equal(x.content, y.content);
    assert.equal(x.content, z.content);
    assert.ok(x.timings.draft_n >= x.timings.draft_n_accepted && x.timings.draft_n > 0);
    assert.equal(y.timings.draft_n, undefined);
    assert.equal(z.timings.draft_n, undefined);
    const m = await metrics(drafting.url);
    assert.equal(m('vllm:spec_decode_num_draft_tokens_total'), x.timings.draft_n);
    assert.equal(m('vllm:spec_decode_num_accepted_tokens_total'), x.timings.draft_n_accepted);
    const bad = await send(drafting, { 'speculative.n_max': 'many' });
    assert.equal(bad.status, 400);
    assert.equal((await bad.json()).error.param, 'speculative.n_max');
    for (const s of [drafting, plain]) {
      s.child.kill('SIGTERM');
      await s.child.ended;
    }
  },

  async 'a full queue'() {
    const small = await serve('--queue', '2', '--parallel', '1');
    assert.equal((await (await fetch(`${small.url}/props`)).json()).total_slots, 1);
    const work = { prompt: 'Count: ', max_tokens: 2000, ignore_eos: true, stream: true };
    const all = await Promise.all(Array.from({ length: 12 }, () => fetch(`${small.url}/v1/completions`, { method: 'POST', body: JSON.stringify(work) })));
    const refused = all.find((r) => r.status === 429);
    assert.ok(refused);
    assert.ok(Number(refused.headers.get('retry-after')) >= 1);
    assert.match((await refused.json()).error.message, /the queue holds 2/);
    assert.ok(all.some((r) => r.status === 200));
    small.child.kill('SIGKILL');
    await Promise.allSettled(all.map((r) => r.bodyUsed || r.text()));
  },

  async 'keys with names, shares, priorities and salts'() {
    const file = join(dir, 'keys-2');
    writeFileSync(file, 'alpha name=team-a weight=2 priority=5\nbeta name=team-b private\n');
    const keyed = await serve('--api-key-file', file);
    const as = (key, more = {}) => fetch(`${keyed.url}/v1/completions`, { method: 'POST', headers: { authorization: `Bearer ${key}` },
      body: JSON.stringify({ prompt: 'The quick brown fox jumps over the lazy dog. '.repeat(6), max_tokens: 2, ignore_eos: true, ...more }) }).then((r) => r.json());
    await as('alpha');
    assert.ok((await as('alpha', { priority: -3 })).usage.prompt_tokens_details.cached_tokens >= 32);
    assert.equal((await as('beta')).usage.prompt_tokens_details.cached_tokens, 0); // beta learns nothing of alpha's prompts
    assert.ok((await as('beta')).usage.prompt_tokens_details.cached_tokens >= 32);
    const text = await (await fetch(`${keyed.url}/metrics`, { headers: { authorization: 'Bearer beta' } })).text();
    assert.match(text, /altiserve_client_tokens_total\{client="team-a",kind="generated"\} 4\n/);
    assert.doesNotMatch(text, /alpha|beta/);
    const trace = await (await fetch(`${keyed.url}/debug/trace`, { headers: { authorization: 'Bearer beta' } })).json();
    const names = new Set(trace.traceEvents.map((e) => e.name));
    for (const name of ['step', 'compute', 'request', 'prefill', 'decode']) assert.ok(names.has(name), name);
    assert.ok(trace.traceEvents.every((e) => e.ph === 'M' || Number.isInteger(e.ts)));
    keyed.child.kill('SIGTERM');
    await keyed.child.ended;
    writeFileSync(file, 'alpha weight=0\n');
    await assert.rejects(serve('--api-key-file', file));
  },

  async 'keys'() {
    const file = join(dir, 'keys');
    writeFileSync(file, '# who may\nsecret\n');
    const keyed = await serve('--api-key-file', file);
    assert.equal((await fetch(`${keyed.url}/v1/models`)).status, 401);
    assert.equal((await fetch(`${keyed.url}/v1/models`, { headers: { authorization: 'Bearer wrong!' } })).status, 401);
    assert.equal((await fetch(`${keyed.url}/v1/models`, { headers: { authorization: 'Bearer secret' } })).status, 200);
    assert.equal((await fetch(`${keyed.url}/health`)).status, 200);
    keyed.child.kill('SIGTERM');
    assert.deepEqual(await keyed.child.ended, { code: 0, signal: null });
  },

  async 'TLS'() {
    const cert = join(dir, 'cert.pem'), key = join(dir, 'key.pem');
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=localhost', '-days', '1',
      '-keyout', key, '-out', cert], { stdio: 'ignore' });
    const secure = await serve('--tls-cert', cert, '--tls-key', key);
    assert.match(secure.url, /^https:/);
    const call = (method, path, body, onData) => new Promise((resolve, reject) => {
      const request = https.request(secure.url + path, { method, rejectUnauthorized: false, agent: false }, (response) => {
        let text = '';
        response.on('data', (part) => { text += part; onData?.(request); });
        response.on('end', () => resolve(text));
        response.on('error', () => resolve(null));
      });
      request.on('error', onData ? () => resolve(null) : reject);
      request.end(body);
    });
    const hello = { messages: [{ role: 'user', content: 'Hello!' }], temperature: 0, max_tokens: 60, stream: true };
    const list = events(await call('POST', '/v1/chat/completions', JSON.stringify(hello)));
    assert.equal(gather(list).text, (await ask('Hello!')).json.choices[0].message.content);
    const work = { prompt: Array.from({ length: 64 }, (_, i) => `Story ${i}.`), n: 4, max_tokens: 400, ignore_eos: true, stream: true };
    await call('POST', '/v1/completions', JSON.stringify(work), (request) => request.destroy());
    await until('the work stops', async () => {
      const text = await call('GET', '/metrics');
      return /\nvllm:num_requests_running\{model_name="toy-1"\} 0\n/.test(text) && text.includes(`${ABORTED} 1\n`);
    });
    secure.child.kill('SIGINT');
    assert.deepEqual(await secure.child.ended, { code: 0, signal: null });
  },

  async 'signals'() {
    // The first lets a stream end; further requests are refused.
    const one = await serve();
    const body = JSON.stringify({ prompt: ['a', 'b', 'c', 'd'], n: 2, max_tokens: 200, ignore_eos: true, stream: true });
    const stream = await new Promise((resolve) => {
      const request = http.request(`${one.url}/v1/completions`, { method: 'POST', agent: false }, resolve);
      request.end(body);
    });
    let text = '';
    stream.setEncoding('utf8');
    const ended = new Promise((resolve) => { stream.on('end', resolve); stream.on('error', resolve); });
    stream.on('data', (part) => { if (!text) one.child.kill('SIGTERM'); text += part; });
    await ended;
    const list = events(text);
    for (let i = 0; i < 8; i++) assert.equal(gather(list, i).finish, 'length');
    assert.deepEqual(await one.child.ended, { code: 0, signal: null });
    await assert.rejects(fetch(one.url));
    // Who still runs at the deadline is told so.
    const late = await serve('--drain-timeout', '0');
    const told = { waiting: 0, streams: 0 };
    const some = Array.from({ length: 40 }, (_, i) => new Promise((resolve, reject) => {
      const request = http.request(`${late.url}/v1/completions`, { method: 'POST', agent: false }, (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (part) => { text += part; });
        response.on('error', reject);
        response.on('end', () => {
          if (i % 2) {
            assert.ok([200, 503].includes(response.statusCode));
            if (response.statusCode === 503) assert.match(JSON.parse(text).error.message, /stopping/), told.waiting++;
          } else {
            const last = events(text).at(-1);
            if (last.error) assert.match(last.error.message, /stopping/), told.streams++;
          }
          resolve();
        });
      });
      request.on('error', reject);
      request.end(JSON.stringify({ prompt: `Story ${i}`, max_tokens: 480, ignore_eos: true, stream: i % 2 === 0 }));
    }));
    await until('all are in the engine', async () => { const m = await metrics(late.url); return m('vllm:num_requests_running') + m('vllm:num_requests_waiting') >= 40; });
    late.child.kill('SIGTERM');
    await Promise.all(some);
    assert.ok(told.waiting > 0 && told.streams > 0, JSON.stringify(told));
    assert.deepEqual(await late.child.ended, { code: 0, signal: null });
    // The second ends at once.
    const two = await serve();
    const work = JSON.stringify({ prompt: Array.from({ length: 200 }, (_, i) => `Story ${i}.`), n: 1, max_tokens: 450, ignore_eos: true, stream: true });
    const request = http.request(`${two.url}/v1/completions`, { method: 'POST', agent: false }, (response) => {
      response.on('error', () => {});
      response.once('data', () => { two.child.kill('SIGINT'); });
    });
    request.on('error', () => {});
    request.end(work);
    await until('it stops listening', () => fetch(`${two.url}/health`).then(() => false, () => true));
    two.child.kill('SIGINT');
    const how = await two.child.ended;
    assert.ok(how.signal || how.code, JSON.stringify(how));
  },

  // toy-1 writes text, and embeds by its last token; it neither ranks nor is listed as a model for embeddings.
  async 'embeddings of a model that writes text'() {
    const input = ['a cat', 'a cat', 'the price of gold'];
    const { status, json } = await post('/v1/embeddings', { model: 'toy-1', input });
    assert.equal(status, 200);
    assert.deepEqual(json.data.map((d) => d.index), [0, 1, 2]);
    assert.deepEqual(json.data[0].embedding, json.data[1].embedding);
    assert.notDeepEqual(json.data[0].embedding, json.data[2].embedding);
    const length = Math.hypot(...json.data[2].embedding);
    assert.ok(Math.abs(length - 1) < 1e-4, length);
    const packed = await post('/v1/embeddings', { model: 'toy-1', input: input[2], encoding_format: 'base64', dimensions: 8 });
    const bytes = Buffer.from(packed.json.data[0].embedding, 'base64');
    assert.equal(bytes.length, 32);
    const cut = json.data[2].embedding.slice(0, 8), scale = Math.hypot(...cut);
    cut.forEach((x, i) => assert.ok(Math.abs(bytes.readFloatLE(4 * i) - x / scale) < 1e-5));
    const ranked = await post('/v1/rerank', { model: 'toy-1', query: 'a', documents: ['b'] });
    assert.equal(ranked.status, 400);
    assert.equal(ranked.json.error.param, 'model');
    const { json: model } = await fetch(`${url}/v1/models/toy-1`).then(async (r) => ({ json: await r.json() }));
    assert.deepEqual(model.capabilities, ['completion']);
  },
};

let failed = 0;
const only = process.argv[2];
for (const [name, test] of Object.entries(tests)) {
  if (only && !name.includes(only)) continue;
  try {
    await test();
    console.log(`ok    ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAIL  ${name}\n${error.stack}`);
  }
}
server.child.kill('SIGTERM');
const how = await server.child.ended;
if (how.code !== 0) {
  failed++;
  console.log(`FAIL  the server ended with ${JSON.stringify(how)}`);
}
for (const child of children) child.kill('SIGKILL');
rmSync(dir, { recursive: true });
process.exit(failed ? 1 : 0);
