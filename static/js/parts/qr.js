// QR codes of addresses: ISO/IEC 18004 Model 2, byte mode, error correction level M (15 % may be lost), versions 1-20,
// which is 666 bytes. Pure but for `qrImage`, which draws one as SVG.

import { s } from "../dom.js";

/** By version, from table 9 of the standard, level M: error correction codewords of each block, and blocks. */
const EC_WORDS = [10, 16, 26, 18, 24, 16, 18, 22, 22, 26, 30, 22, 22, 24, 24, 28, 28, 26, 26, 26];
const BLOCKS = [1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10, 10, 11, 13, 14, 16];
const LEVEL_M = 0b00;

// GF(256) of the standard's polynomial, x^8 + x^4 + x^3 + x^2 + 1.
const EXP = new Uint8Array(512);
const LOG = new Uint8Array(256);
for (let i = 0, x = 1; i < 255; i++, x = (x << 1) ^ (x & 0x80 ? 0x11d : 0)) {
  EXP[i] = EXP[i + 255] = x;
  LOG[x] = i;
}
const times = (a, b) => (a === 0 || b === 0 ? 0 : EXP[LOG[a] + LOG[b]]);

/** Codewords of a version, before they are divided into data and error correction. */
function capacity(version) {
  let modules = (16 * version + 128) * version + 64;
  if (version > 1) {
    const marks = Math.floor(version / 7) + 2;
    modules -= (25 * marks - 10) * marks - 55;
    if (version > 6) modules -= 36;
  }
  return Math.floor(modules / 8);
}

const dataWords = (version) => capacity(version) - EC_WORDS[version - 1] * BLOCKS[version - 1];

/**
 * The modules of the code for a text: rows of booleans, dark is true. Without the quiet zone.
 * @throws {RangeError} when the text has more than 666 bytes
 */
export function qr(text) {
  const data = new TextEncoder().encode(text);
  const version = EC_WORDS.findIndex((_, i) => data.length + (i < 9 ? 2 : 3) <= dataWords(i + 1)) + 1;
  if (version === 0) throw new RangeError(`${data.length} bytes do not fit into a QR code of version 20`);
  const words = interleave(encode(data, version), version);
  const board = frame(version);
  fill(board, words);
  let best = null;
  for (let mask = 0; mask < 8; mask++) {
    const masked = apply(board, mask);
    const cost = penalty(masked);
    if (best === null || cost < best.cost) best = { cost, masked };
  }
  return best.masked;
}

/** Mode, length, bytes, end, and padding up to the version's data codewords. */
function encode(data, version) {
  const bits = [];
  const push = (value, length) => {
    for (let i = length - 1; i >= 0; i--) bits.push((value >> i) & 1);
  };
  push(0b0100, 4);
  push(data.length, version < 10 ? 8 : 16);
  for (const byte of data) push(byte, 8);
  const room = dataWords(version) * 8;
  push(0, Math.min(4, room - bits.length));
  push(0, (8 - (bits.length % 8)) % 8);
  for (let pad = 0xec; bits.length < room; pad ^= 0xec ^ 0x11) push(pad, 8);
  const words = new Uint8Array(room / 8);
  bits.forEach((bit, i) => (words[i >> 3] |= bit << (7 - (i & 7))));
  return words;
}

function interleave(words, version) {
  const [count, ecLength] = [BLOCKS[version - 1], EC_WORDS[version - 1]];
  const generator = polynomial(ecLength);
  const short = Math.floor(words.length / count);
  const longer = words.length % count; // The last ones have a codeword more.
  const blocks = [];
  for (let i = 0, at = 0; i < count; i++) {
    const length = short + (i >= count - longer ? 1 : 0);
    const data = words.subarray(at, at + length);
    blocks.push({ data, ec: remainder(data, generator) });
    at += length;
  }
  const out = [];
  for (let i = 0; i <= short; i++) for (const { data } of blocks) if (i < data.length) out.push(data[i]);
  for (let i = 0; i < ecLength; i++) for (const { ec } of blocks) out.push(ec[i]);
  return out;
}

/** The product of (x - a^i), highest power first, without its leading one. */
function polynomial(degree) {
  const result = new Uint8Array(degree);
  result[degree - 1] = 1;
  for (let i = 0; i < degree; i++) {
    for (let j = 0; j < degree; j++) result[j] = times(result[j], EXP[i]) ^ (j + 1 < degree ? result[j + 1] : 0);
  }
  return result;
}

function remainder(data, generator) {
  const rest = new Uint8Array(generator.length);
  for (const byte of data) {
    const factor = byte ^ rest[0];
    rest.copyWithin(0, 1);
    rest[rest.length - 1] = 0;
    generator.forEach((g, i) => (rest[i] ^= times(g, factor)));
  }
  return rest;
}

/** The fixed patterns of a version. `free` says where data goes. */
function frame(version) {
  const size = version * 4 + 17;
  const dark = Array.from({ length: size }, () => new Array(size).fill(false));
  const free = Array.from({ length: size }, () => new Array(size).fill(true));
  const set = (x, y, value) => {
    if (x < 0 || y < 0 || x >= size || y >= size) return;
    dark[y][x] = value;
    free[y][x] = false;
  };
  for (let i = 0; i < size; i++) {
    set(6, i, i % 2 === 0);
    set(i, 6, i % 2 === 0);
  }
  for (const [cx, cy] of [[3, 3], [size - 4, 3], [3, size - 4]]) {
    for (let y = -4; y <= 4; y++) {
      for (let x = -4; x <= 4; x++) {
        const ring = Math.max(Math.abs(x), Math.abs(y));
        set(cx + x, cy + y, ring !== 2 && ring !== 4);
      }
    }
  }
  const places = alignment(version, size);
  const lastPlace = places.length - 1;
  places.forEach((cx, i) =>
    places.forEach((cy, j) => {
      if ((i === 0 && j === 0) || (i === 0 && j === lastPlace) || (i === lastPlace && j === 0)) return;
      for (let y = -2; y <= 2; y++) {
        for (let x = -2; x <= 2; x++) set(cx + x, cy + y, Math.max(Math.abs(x), Math.abs(y)) !== 1);
      }
    }),
  );
  if (version > 6) {
    const bits = (version << 12) | bch(version, 12, 0x1f25);
    for (let i = 0; i < 18; i++) {
      const [a, b] = [size - 11 + (i % 3), Math.floor(i / 3)];
      set(a, b, ((bits >> i) & 1) === 1);
      set(b, a, ((bits >> i) & 1) === 1);
    }
  }
  const board = { size, dark, free, set };
  format(board, 0); // Keeps its place free; each mask writes its own.
  return board;
}

function alignment(version, size) {
  if (version === 1) return [];
  const count = Math.floor(version / 7) + 2;
  const step = Math.ceil((version * 4 + 4) / (count * 2 - 2)) * 2;
  const places = [6];
  for (let place = size - 7; places.length < count; place -= step) places.splice(1, 0, place);
  return places;
}

/** The remainder of a BCH code. */
function bch(value, length, generator) {
  let rest = value << length;
  for (let i = 31 - Math.clz32(rest); i >= length; i--) if ((rest >> i) & 1) rest ^= generator << (i - length);
  return rest;
}

function format({ size, set }, mask) {
  const value = (LEVEL_M << 3) | mask;
  const bits = ((value << 10) | bch(value, 10, 0x537)) ^ 0x5412;
  const bit = (i) => ((bits >> i) & 1) === 1;
  for (let i = 0; i < 6; i++) set(8, i, bit(i));
  set(8, 7, bit(6));
  set(8, 8, bit(7));
  set(7, 8, bit(8));
  for (let i = 9; i < 15; i++) set(14 - i, 8, bit(i));
  for (let i = 0; i < 8; i++) set(size - 1 - i, 8, bit(i));
  for (let i = 8; i < 15; i++) set(8, size - 15 + i, bit(i));
  set(8, size - 8, true);
}

/** Lays the codewords out: two columns at a time from the right, up and down in turn. */
function fill({ size, dark, free }, words) {
  let i = 0;
  for (let right = size - 1; right > 0; right -= 2) {
    if (right === 6) right = 5; // The timing pattern's column does not count.
    const up = ((right + 1) & 2) === 0;
    for (let step = 0; step < size; step++) {
      const y = up ? size - 1 - step : step;
      for (const x of [right, right - 1]) {
        if (!free[y][x]) continue;
        dark[y][x] = i < words.length * 8 && ((words[i >> 3] >> (7 - (i & 7))) & 1) === 1;
        i++;
      }
    }
  }
}

const MASKS = [
  (x, y) => (x + y) % 2 === 0,
  (x, y) => y % 2 === 0,
  (x) => x % 3 === 0,
  (x, y) => (x + y) % 3 === 0,
  (x, y) => (Math.floor(x / 3) + Math.floor(y / 2)) % 2 === 0,
  (x, y) => ((x * y) % 2) + ((x * y) % 3) === 0,
  (x, y) => (((x * y) % 2) + ((x * y) % 3)) % 2 === 0,
  (x, y) => (((x + y) % 2) + ((x * y) % 3)) % 2 === 0,
];

function apply({ size, dark, free }, mask) {
  const masked = dark.map((row, y) => row.map((module, x) => module !== (free[y][x] && MASKS[mask](x, y))));
  format({ size, set: (x, y, value) => (masked[y][x] = value) }, mask);
  return masked;
}

/** Section 7.8.3.1: long runs, blocks, what looks like a finder pattern, and too much of one colour. */
function penalty(rows) {
  const size = rows.length;
  const lines = [...rows, ...rows.map((_, x) => rows.map((row) => row[x]))];
  let cost = 0;
  for (const line of lines) {
    let run = 1;
    for (let i = 1; i <= size; i++) {
      if (i < size && line[i] === line[i - 1]) run++;
      else {
        if (run >= 5) cost += run - 2;
        run = 1;
      }
    }
    const text = line.map(Number).join("");
    for (const finder of ["10111010000", "00001011101"]) {
      for (let at = text.indexOf(finder); at >= 0; at = text.indexOf(finder, at + 1)) cost += 40;
    }
  }
  let sum = 0;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      sum += rows[y][x];
      const same = x + 1 < size && y + 1 < size && [rows[y][x + 1], rows[y + 1][x], rows[y + 1][x + 1]];
      if (same && same.every((module) => module === rows[y][x])) cost += 3;
    }
  }
  return cost + Math.floor(Math.abs(sum * 20 - size * size * 10) / (size * size)) * 10;
}

/** The code as a picture; always dark on white, whatever the theme, because cameras want that. */
export function qrImage(text) {
  const rows = qr(text);
  const size = rows.length + 8;
  let path = "";
  rows.forEach((row, y) => row.forEach((dark, x) => dark && (path += `M${x + 4} ${y + 4}h1v1h-1z`)));
  return s(
    "svg",
    { class: "qr", viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": `QR code of ${text}`, "shape-rendering": "crispEdges" },
    s("rect", { width: size, height: size, fill: "#fff" }),
    s("path", { d: path, fill: "#000" }),
  );
}
