'use strict';
// Trusted driver for JavaScript (and compiled TypeScript) test code.
//
// The nonce lives in this function's scope. Program and tests are two scripts of one realm: they share top-level names,
// but the program cannot swallow the tests in a comment or a template. Before the program runs, the tests' file is gone
// and what tests compare with is locked: methods of the built-in classes, JSON, Math, console, require, assert; the
// modules that could look into a closure or the heap are refused. A failed assertion is remembered, however it is caught.
(() => {
  const fs = require('fs');
  const { Script } = require('vm');
  const Module = require('module');
  const { createRequire } = Module;
  const { AssertionError } = require('assert');
  const { defineProperty, getOwnPropertyDescriptor, getPrototypeOf, freeze } = Object;
  const { ownKeys, apply } = Reflect;
  const { writeSync } = fs;
  const { isPromise } = require('util').types;
  const { then } = Promise.prototype;
  const { String } = globalThis;
  const exit = process.reallyExit.bind(process);
  const REFUSED = /^(node:)?(inspector|v8|vm|module|repl|worker_threads|cluster|wasi|diagnostics_channel|async_hooks|trace_events|perf_hooks|test)(\/|$)/;

  const bytes = Buffer.allocUnsafeSlow(33);
  for (let have = 0, got; have < 33; have += got) {
    got = fs.readSync(0, bytes, have, 33 - have);
    if (got === 0) exit(1);
  }
  const nonce = bytes.latin1Slice(0, 32);
  bytes.fill(0);
  const program = fs.readFileSync('program.js', 'utf8');
  const tests = fs.readFileSync('tests.js', 'utf8');
  for (const name of ['program.js', 'tests.js', 'driver.js']) fs.unlinkSync(name);

  let testing = false;
  let ended = false;
  let failed = false;
  const end = (error) => {
    try {
      writeSync(2, String((error && error.stack) || error) + '\n');
    } catch {
      // stderr is closed, or the error's own text fails
    }
    exit(failed || (testing && error instanceof AssertionError) ? 81 : 1);
  };

  // assert: the module for the program, and for the tests one that remembers failures
  const remembering = (call) => function (...values) {
    try {
      return apply(call, this, values);
    } catch (error) {
      failed = true;
      throw error;
    }
  };
  const assertModule = require('assert');
  const copyOf = (module) => {
    const copy = remembering(module);
    for (const key of ownKeys(module)) {
      const { value } = getOwnPropertyDescriptor(module, key);
      if (typeof value === 'function' && key !== 'strict' && key !== 'AssertionError' && key !== 'CallTracker') {
        defineProperty(copy, key, { value: remembering(value) });
      } else if (key === 'AssertionError') {
        defineProperty(copy, key, { value });
      }
    }
    return copy;
  };
  const watched = copyOf(assertModule);
  const strict = copyOf(assertModule.strict);
  for (const one of [watched, strict]) defineProperty(one, 'strict', { value: strict });
  for (const one of [watched, strict, assertModule, assertModule.strict]) freeze(one);

  const load = Module._load;
  Module._load = function (request, ...rest) {
    if (REFUSED.test(request)) throw new Error(`module ${request} is not available to graded programs`);
    return apply(load, this, [request, ...rest]);
  };
  freeze(Module);
  const inner = createRequire(process.cwd() + '/');
  const theirs = (request) => {
    const name = `${request}`;
    if (testing && (name === 'assert' || name === 'node:assert')) return watched;
    if (testing && (name === 'assert/strict' || name === 'node:assert/strict')) return strict;
    return inner(name);
  };
  for (const key of ['binding', '_linkedBinding', 'getBuiltinModule', 'dlopen', 'reallyExit', '_kill', 'mainModule', '_debugProcess', '_debugEnd', '_startProfilerIdleNotifier']) {
    try {
      delete process[key];
    } catch {
      // not configurable in this version
    }
  }
  delete process.report;

  defineProperty(console, 'assert', {
    value: (condition, ...message) => {
      if (condition) return;
      failed = true;
      throw new AssertionError({ message: message.length ? `${message[0]}` : 'console.assert' });
    },
    writable: false,
    configurable: false,
  });

  // Locked: own functions only, so that programs may still add methods of their own.
  const lock = (object, also = []) => {
    for (const key of ownKeys(object)) {
      const { value, get, configurable } = getOwnPropertyDescriptor(object, key);
      if (!configurable || key === 'constructor') continue;
      if (typeof value === 'function') defineProperty(object, key, { writable: false, configurable: false });
      else if (get) defineProperty(object, key, { configurable: false });
    }
    for (const key of also) defineProperty(object, key, { value: undefined, writable: false, configurable: false });
  };
  const TypedArray = getPrototypeOf(Uint8Array);
  const classes = { Array, String: globalThis.String, Number, Boolean, BigInt, RegExp, Date, Map, Set, Symbol };
  for (const one of [...Object.values(classes), TypedArray]) {
    lock(one);
    lock(one.prototype, one === Array ? ['toJSON'] : []);
  }
  lock(getPrototypeOf([][Symbol.iterator]()));
  lock(Function.prototype);
  for (const one of [Object, JSON, Math, Reflect]) lock(one);
  defineProperty(Object.prototype, 'toJSON', {
    get: () => undefined,
    set(value) {
      if (this === Object.prototype) throw new TypeError('Object.prototype.toJSON is locked');
      defineProperty(this, 'toJSON', { value, writable: true, enumerable: true, configurable: true });
    },
    configurable: false,
  });
  const module = { exports: {}, children: [], filename: process.cwd() + '/program.js', id: '.', loaded: false };
  const globals = { ...classes, Object, JSON, Math, Reflect, console, Error, parseInt, parseFloat, isNaN, isFinite };
  for (const [name, value] of Object.entries(globals)) {
    defineProperty(globalThis, name, { value, writable: false, configurable: false });
  }
  defineProperty(globalThis, 'require', { value: theirs, writable: false, configurable: false });
  for (const [name, value] of Object.entries({ module, exports: module.exports, __filename: module.filename, __dirname: process.cwd() })) {
    defineProperty(globalThis, name, { value, writable: true, configurable: true });
  }
  defineProperty(theirs, 'main', { value: module });

  process.on('uncaughtException', end);
  process.on('beforeExit', () => {
    if (failed) exit(81);
    if (!ended) exit(1);
    writeSync(1, `\n${nonce}\n`);
    exit(0);
  });
  try {
    new Script(program, { filename: 'program.js' }).runInThisContext();
    const script = new Script(`'use strict';${tests}`, { filename: 'tests.js' });
    testing = true;
    const result = script.runInThisContext();
    // Tests that are asynchronous have ended when their promise says so, not when nothing is left to wait for.
    if (isPromise(result)) apply(then, result, [() => { ended = true; }, end]);
    else ended = true;
  } catch (error) {
    end(error);
  }
})();
