"use strict";
// Changes that the browser makes at once: controls that depend on others, and marks on results of other settings.
const holitom = {
  table: {},
  asked: null,

  // The settings at the time when Ask was pressed, to which the results belong.
  ask(...inputs) {
    holitom.asked = JSON.stringify(holitom.plain(inputs));
    holitom.mark(false);
    return inputs;
  },
  changed(...inputs) {
    if (holitom.asked !== null) holitom.mark(JSON.stringify(holitom.plain(inputs)) !== holitom.asked);
  },
  plain: inputs => inputs.map(one => one && typeof one === "object" ? one.orig_name || one.path : one),
  mark(stale) {
    const results = document.getElementById("results");
    if (results) results.classList.toggle("stale", stale);
  },

  // The retain ratio's slider begins at the smallest ratio that the method can meet with the number of frames.
  least(method, retain, frames) {
    const minimum = holitom.table[method].least[frames - 1] / 100;
    return { __type__: "update", minimum, value: Math.max(minimum, retain) };
  },
  threshold(method, retain) {
    const usual = holitom.table[method].threshold[Math.round(100 * retain) - holitom.first];
    return { __type__: "update", interactive: usual !== null, ...(usual === null ? {} : { value: usual }) };
  },
  inner(method) {
    const [value, interactive] = holitom.table[method].inner;
    return { __type__: "update", value, interactive };
  },
  describe(method, frames) {
    const row = holitom.table[method], least = row.least[frames - 1];
    const says = document.getElementById("method-says");
    if (says) says.textContent = `Can meet retain ratios from ${least / 100} to 1`
      + (least > 2 ? ` with ${frames} frame${frames === 1 ? "" : "s"}.` : ".");
  },
};
window.holitom = holitom;
