// Which numbers of its queue a device has had, and which are missing: replay and gaps, without I/O.

/** Most gaps that may still be filled; beyond that the oldest is given up. */
export const MAX_GAPS = 256;
/** Seconds that a gap may wait for its explanation before it is shown. */
export const GRACE = 30;

/**
 * `last`: the highest number seen. `gaps`: ranges below it that nothing has come for, as `{from, to, since}`, ascending, since
 * when in seconds since 1970. `lost`: how many numbers were given up. Its JSON is what the constructor takes.
 */
export class Ledger {
  constructor({ last = 0, gaps = [], lost = 0 } = {}) {
    this.last = last;
    this.lost = lost;
    this.gaps = gaps.map((gap) => ({ ...gap }));
  }

  /** Whether this number has not been seen yet. */
  isNew(sequence) {
    return sequence > this.last || this.gaps.some((gap) => gap.from <= sequence && sequence <= gap.to);
  }

  /** An envelope with a number that is new came, verified. */
  seen(sequence, now) {
    this.#close(sequence, sequence, now);
  }

  /** The domain explained that these numbers will not come. */
  explained(from, to, now) {
    if (from > 0 && to >= from) this.#close(from, to, now);
  }

  /** Up to here nothing is missing: where a stream resumes. What comes again from there is acknowledged again. */
  get resume() {
    return this.gaps.length > 0 ? this.gaps[0].from - 1 : this.last;
  }

  /** How many numbers are missing without explanation for longer than [`GRACE`]. */
  withheld(now) {
    return this.gaps
      .filter((gap) => gap.since + GRACE <= now)
      .reduce((sum, gap) => sum + width(gap), this.lost);
  }

  /** When the next gap's grace is over, in seconds since 1970; `null`: there is none. */
  next(now) {
    const times = this.gaps.map((gap) => gap.since + GRACE).filter((at) => at > now);
    return times.length > 0 ? Math.min(...times) : null;
  }

  #close(from, to, now) {
    if (from > this.last + 1) this.gaps.push({ from: this.last + 1, to: from - 1, since: now });
    this.gaps = this.gaps.flatMap((gap) => {
      if (to < gap.from || from > gap.to) return [gap];
      const left = gap.from < from ? [{ ...gap, to: from - 1 }] : [];
      const right = gap.to > to ? [{ ...gap, from: to + 1 }] : [];
      return [...left, ...right];
    });
    this.last = Math.max(this.last, to);
    while (this.gaps.length > MAX_GAPS) this.lost += width(this.gaps.shift());
  }
}

const width = (gap) => gap.to - gap.from + 1;
