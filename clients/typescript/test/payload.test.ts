import assert from "node:assert/strict";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";

import { fromPayload, PayloadError, toPayload } from "../src/index.js";
import { PayloadSchema } from "../src/v1.js";

const decoder = new TextDecoder();

function read(text: string): unknown {
  const data = new TextEncoder().encode(text);
  return fromPayload(create(PayloadSchema, { contentType: "application/json", data }), "input");
}

function written(value: unknown): string {
  return decoder.decode(toPayload(value, "input").data);
}

test("integers of any size come and go without loss", () => {
  const text =
    '{"a":9007199254740991,"b":9007199254740993,"c":-9223372036854775808,"d":[18446744073709551615,12345678901234567890123456789]}';
  assert.deepEqual(read(text), {
    a: 9007199254740991,
    b: 9007199254740993n,
    c: -9223372036854775808n,
    d: [18446744073709551615n, 12345678901234567890123456789n],
  });
  assert.equal(written(read(text)), text);
});

test("fractions and exponents stay numbers, however many digits they have", () => {
  assert.deepEqual(
    read("[0.12345678901234567890, 1234567890123456.5, 1e22, 1, -0.5]"),
    [0.12345678901234568, 1234567890123456.5, 1e22, 1, -0.5],
  );
});

test("text of any script and all of JSON's kinds come and go", () => {
  const value = { text: 'é漢字🚀\u2028"\\\n\u0000', list: [null, true, false, {}, []], "": 1, ключ: "v" };
  assert.deepEqual(read(written(value)), value);
  assert.deepEqual(read('{"big": 12345678901234567890, "text": "\\ud83d\\ude80 9999999999999999999"}'), {
    big: 12345678901234567890n,
    text: "🚀 9999999999999999999",
  });
});

test("a repeated key means the last one, big integers or not", () => {
  assert.deepEqual(read('{"a": 1, "a": 2}'), { a: 2 });
  assert.deepEqual(read('{"a": 12345678901234567890, "a": 2}'), { a: 2 });
});

test("what JSON cannot carry is refused with its place", () => {
  const loop: unknown[] = [];
  loop.push(loop);
  for (const [value, fault] of [
    [{ scores: [1, NaN] }, /^TypeError: input\.scores\[1\] is NaN/],
    [{ a: { b: Infinity } }, /^TypeError: input\.a\.b is Infinity/],
    ["\ud800", /^TypeError: input has half of a surrogate pair/],
    [undefined, /^TypeError: input is undefined/],
    [{ f: () => 1 }, /^TypeError: input\.f is function/],
    [{ m: new Map() }, /^TypeError: input\.m is a Map/],
    [loop, /^TypeError: input\[0\] contains itself/],
  ] as const) {
    assert.throws(() => toPayload(value, "input"), fault);
  }
});

test("what is no JSON is refused when read", () => {
  assert.throws(() => read("{"), PayloadError);
  assert.throws(() => read("NaN"), PayloadError);
  assert.throws(
    () => fromPayload(create(PayloadSchema, { contentType: "text/plain" }), "input"),
    /content type "text\/plain"/,
  );
  const broken = create(PayloadSchema, { contentType: "application/json", data: Uint8Array.of(0x22, 0xff, 0x22) });
  assert.throws(() => fromPayload(broken, "input"), PayloadError);
});

test("an unset payload is null", () => {
  assert.equal(fromPayload(undefined, "input"), null);
});
