'use strict';
// Compiles TypeScript programs one after the other in a process that stays warm.
//
//   stdin   4-byte big-endian length, JSON {"files": {name: text}}
//   stdout  4-byte big-endian length, JSON {"ok": bool, "diagnostics": text, "files": {name: base64}}
//
// The whole of a program is checked, as tsc does it: an error of types is a compile error. Parsed and bound libraries are
// kept between programs. Nothing is written to disk and no code of a program runs. Ends with standard input, and when
// its heap has grown past a bound (start another). `--once FILE...` compiles files of the working directory into it.
const fs = require('fs');
const path = require('path');
const v8 = require('v8');

const LIBRARY = '/usr/local/lib/node_modules/typescript/lib';
const ts = require(path.join(LIBRARY, 'typescript.js'));

const MAX_FRAME = 16 << 20;
const MAX_DIAGNOSTICS = 20;
const MAX_HEAP = 384 << 20;
// What programs use of node, without types of its own: @types/node would cost more than the program, and its `require`
// contradicts the `declare var require: any` of MultiPL-E's tests. No DOM: it claims names such as `name` and `event`.
const AMBIENT = `
declare var require: any, process: any, Buffer: any, module: any, exports: any, global: any, console: any;
declare var __dirname: string, __filename: string;
declare function setTimeout(callback: (...values: any[]) => void, ms?: number, ...values: any[]): any;
declare function setInterval(callback: (...values: any[]) => void, ms?: number, ...values: any[]): any;
declare function setImmediate(callback: (...values: any[]) => void, ...values: any[]): any;
declare function clearTimeout(timer: any): void;
declare function clearInterval(timer: any): void;
declare function clearImmediate(timer: any): void;
declare function queueMicrotask(callback: () => void): void;
declare function structuredClone<T>(value: T): T;
declare var performance: any, TextEncoder: any, TextDecoder: any, URL: any, crypto: any;
declare namespace NodeJS { type Timeout = any; type Timer = any; type ReadableStream = any; }
interface Buffer { [name: string]: any }
${['assert', 'assert/strict', 'buffer', 'crypto', 'events', 'fs', 'fs/promises', 'os', 'path', 'readline', 'stream', 'string_decoder', 'timers', 'url', 'util', 'perf_hooks']
  .map((name) => `declare module '${name}';\ndeclare module 'node:${name}';`)
  .join('\n')}
`;
const OPTIONS = {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.CommonJS,
  moduleResolution: ts.ModuleResolutionKind.Node10,
  lib: ['lib.es2023.d.ts'],
  types: [],
  esModuleInterop: true,
  ignoreDeprecations: '5.0',
  newLine: ts.NewLineKind.LineFeed,
};

const libraries = new Map();
function library(name) {
  if (!libraries.has(name)) {
    const text = name === 'ambient.d.ts' ? AMBIENT : fs.readFileSync(path.join(LIBRARY, name), 'utf8');
    libraries.set(name, ts.createSourceFile(name, text, { languageVersion: OPTIONS.target }, false, ts.ScriptKind.TS));
  }
  return libraries.get(name);
}
const isLibrary = (name) => name === 'ambient.d.ts' || /^lib\.[\w.]+\.d\.ts$/.test(name);

function compile(files) {
  const outputs = {};
  const known = new Map();
  for (const [name, text] of Object.entries(files)) {
    if (!/^[A-Za-z_][\w]*\.ts$/.test(name) || typeof text !== 'string') throw new Error(`file name ${name}`);
    known.set(name, text);
  }
  const host = {
    getSourceFile: (name, version) => {
      if (isLibrary(name)) return library(name);
      return known.has(name) ? ts.createSourceFile(name, known.get(name), version, false, ts.ScriptKind.TS) : undefined;
    },
    getDefaultLibFileName: () => 'lib.es2023.d.ts',
    getDefaultLibLocation: () => '',
    getCurrentDirectory: () => '',
    getCanonicalFileName: (name) => name,
    useCaseSensitiveFileNames: () => true,
    getNewLine: () => '\n',
    fileExists: (name) => known.has(name) || name === 'ambient.d.ts',
    readFile: (name) => known.get(name),
    directoryExists: () => false,
    getDirectories: () => [],
    writeFile: (name, text) => {
      outputs[name] = text;
    },
  };
  const program = ts.createProgram({ rootNames: ['ambient.d.ts', ...known.keys()], options: OPTIONS, host });
  const found = [...program.getOptionsDiagnostics(), ...program.getGlobalDiagnostics()];
  for (const name of known.keys()) {
    const file = program.getSourceFile(name);
    found.push(...program.getSyntacticDiagnostics(file));
    if (found.length === 0) found.push(...program.getSemanticDiagnostics(file));
  }
  const errors = found.filter((one) => one.category === ts.DiagnosticCategory.Error);
  if (errors.length === 0) program.emit();
  return { ok: errors.length === 0 && known.size > 0, diagnostics: ts.formatDiagnostics(errors.slice(0, MAX_DIAGNOSTICS), host), files: outputs };
}

function answerTo(frame) {
  try {
    const request = JSON.parse(frame.toString('utf8'));
    if (request === null || typeof request.files !== 'object' || request.files === null) throw new Error('a frame is {"files": {name: text}}');
    const answer = compile(request.files);
    for (const [name, text] of Object.entries(answer.files)) answer.files[name] = Buffer.from(text).toString('base64');
    return answer;
  } catch (error) {
    return { ok: false, diagnostics: `${error}`, files: {} };
  }
}

function readFully(length) {
  const bytes = Buffer.alloc(length);
  for (let have = 0; have < length; ) {
    const got = fs.readSync(0, bytes, have, length - have);
    if (got === 0) return null;
    have += got;
  }
  return bytes;
}

function writeFully(bytes) {
  for (let done = 0; done < bytes.length; ) done += fs.writeSync(1, bytes, done);
}

function serve() {
  for (;;) {
    const head = readFully(4);
    if (head === null) return;
    const length = head.readUInt32BE(0);
    let answer;
    if (length > MAX_FRAME) {
      for (let left = length; left > 0; left -= 65536) if (readFully(Math.min(left, 65536)) === null) return;
      answer = { ok: false, diagnostics: `a frame of ${length} bytes; at most ${MAX_FRAME}`, files: {} };
    } else {
      const frame = readFully(length);
      if (frame === null) return;
      answer = answerTo(frame);
    }
    const body = Buffer.from(JSON.stringify(answer));
    const size = Buffer.alloc(4);
    size.writeUInt32BE(body.length, 0);
    writeFully(Buffer.concat([size, body]));
    if (v8.getHeapStatistics().used_heap_size > MAX_HEAP) return; // process.memoryUsage() needs /proc
  }
}

if (process.argv[2] === '--once') {
  const files = Object.fromEntries(process.argv.slice(3).map((name) => [name, fs.readFileSync(name, 'utf8')]));
  const answer = compile(files);
  for (const [name, text] of Object.entries(answer.files)) fs.writeFileSync(name, text);
  fs.writeSync(2, answer.diagnostics);
  process.exitCode = answer.ok ? 0 : 1;
} else {
  serve();
}
