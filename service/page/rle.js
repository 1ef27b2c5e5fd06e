// COCO's run-length encoding: lengths of runs of zeros and ones in turn, zeros first, column by column; from the fourth
// length on, each is written as its difference to the one two before; five bits a character, least significant first,
// 0x20 marks that more follow, 48 is added.

/** Calls `visit(start, end)` for each run of ones, in pixels counted column by column. */
export function eachRun(counts, visit) {
  let position = 0;
  let start = 0;
  let index = 0;
  let last = 0; // the length before this one, and
  let beforeLast = 0; // the one before that
  while (position < counts.length) {
    let length = 0;
    let shift = 0;
    let code;
    do {
      code = counts.charCodeAt(position++) - 48;
      length |= (code & 0x1f) << shift;
      shift += 5;
    } while (code & 0x20);
    if (code & 0x10 && shift < 32) length |= -1 << shift;
    if (index > 2) length += beforeLast;
    beforeLast = last;
    last = length;
    if (index % 2 && length) visit(start, start + length);
    start += length;
    index += 1;
  }
}
