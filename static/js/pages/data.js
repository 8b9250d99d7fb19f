// Mappings as a file, in and out, and a copy of the whole database.

import { ApiError, call, download, query, save } from "../api.js";
import { h, mark, press, put, say } from "../dom.js";
import { bytes, count, many } from "../format.js";
import { onStatus } from "../live.js";
import { busy } from "../parts/dialog.js";
import { pills } from "../parts/field.js";
import { icon } from "../parts/icon.js";
import { actions, badge, notice, panel, row, table } from "../parts/layout.js";
import { settings } from "../parts/settings.js";
import { failed, toast } from "../parts/toast.js";

const MOST_BYTES = 4 * 1024 * 1024;

export function page({ signal }) {
  const both = h("div", { class: "columns even" }, exportPanel(signal), backupPanel(signal));
  return settings("/settings/data", "Mappings as a file, and a copy of everything", [], both, importPanel(signal));
}

function exportPanel(signal) {
  const button = press("primary", {}, icon("download", 15), "Export mappings");
  button.addEventListener("click", async () => {
    try {
      const file = await busy(button, "Exporting…", () => download("/mappings/export", { accept: "application/json", signal }));
      save(file.blob, file.name ?? "octoporty-mappings.json");
      toast("success", "Mappings exported", bytes(file.blob.size));
    } catch (error) {
      failed("Export failed", error);
    }
  });
  return panel("Export", null, h("p", {}, "All mappings with all their fields, as JSON: to keep, to edit, or to import into another Agent."), actions(button));
}

function backupPanel(signal) {
  const size = h("span", { class: "data" });
  onStatus((status) => say(size, status.database?.bytes ? bytes(status.database.bytes) : ""), signal);
  const bar = h("progress", { "aria-label": "Backup", hidden: true });
  const words = h("p", { class: "quiet", role: "status" });
  const stop = press("", { hidden: true }, "Stop");
  const button = press("primary", {}, icon("download", 15), "Download backup");
  button.addEventListener("click", async () => {
    const own = new AbortController();
    stop.onclick = () => own.abort();
    stop.hidden = bar.hidden = false;
    bar.removeAttribute("value");
    say(words, "");
    try {
      const file = await busy(button, "Downloading…", () =>
        download("/settings/backup", {
          accept: "*/*",
          signal: AbortSignal.any([signal, own.signal]),
          progress(n, total) {
            if (total) {
              bar.max = total;
              bar.value = n;
            }
            say(words, total ? `${bytes(n)} of ${bytes(total)}` : bytes(n));
          },
        }));
      save(file.blob, file.name ?? "octoporty.db");
      say(words, `${bytes(file.blob.size)} downloaded.`);
      toast("success", "Backup downloaded", file.name ?? "");
    } catch (error) {
      say(words, ApiError.gone(error) ? "Stopped." : "");
      failed("Backup failed", error);
    } finally {
      stop.hidden = bar.hidden = true;
    }
  });
  return panel("Backup", null, h("p", {}, "A complete copy of the database, taken while everything goes on: mappings, settings, requests. ", size),
    h("p", { class: "hint" }, "To restore it, stop the Agent and put the file in the place of its database."), bar, words, actions(button, stop));
}

function importPanel(signal) {
  let text = null;
  let name = "";
  let mode = "merge";
  let turn = 0; // Only the last look counts.
  const file = h("input", { type: "file", accept: ".json,application/json", class: "input", id: "import-file", "aria-describedby": "import-hint" });
  const choice = pills("What happens to mappings that are not in the file", [["merge", "Keep others"], ["replace", "Delete others"]], mode, (value) => {
    mode = value;
    if (text !== null) look();
  });
  const place = h("div", { class: "stack", role: "status" });
  const apply = press("primary", { hidden: true }, "Import");

  file.addEventListener("change", async () => {
    apply.hidden = true;
    put(place);
    text = null;
    const [chosen] = file.files;
    if (!chosen) return;
    if (chosen.size > MOST_BYTES) return put(place, h("p", { class: "problem" }, `${chosen.name} has ${bytes(chosen.size)}; at most ${bytes(MOST_BYTES)} are possible.`));
    ({ name } = chosen);
    text = await chosen.text();
    look();
  });
  apply.addEventListener("click", () => send(false));

  const look = () => send(true);

  async function send(dryRun) {
    const mine = ++turn;
    mark(apply, "disabled", true);
    const path = `/mappings/import${query({ mode, dryRun })}`;
    try {
      const ask = () => call("POST", path, { text, signal });
      const report = dryRun ? await ask() : await busy(apply, "Importing…", ask);
      if (mine === turn) show(report, dryRun);
    } catch (error) {
      if (mine !== turn || ApiError.gone(error)) return;
      // With faults the answer has the same shape, and says where they are.
      if (error.status === 400 && Array.isArray(error.body?.faults)) return show(error.body, dryRun);
      const faults = Object.values(error.errors ?? {}).flat().join(". ");
      apply.hidden = true;
      put(place, h("p", { class: "problem" }, `${name}: ${faults || error.message}`));
    }
  }

  function show(report, dryRun) {
    const { added = [], changed = [], removed = [], faults = [] } = report;
    const total = added.length + changed.length + removed.length;
    if (!dryRun && report.applied) {
      apply.hidden = true;
      file.value = "";
      text = null;
      put(place, notice("emerald", icon("check"), h("strong", {}, "Imported. "), `${added.length} added, ${changed.length} changed, ${removed.length} deleted.`));
      return toast("success", "Mappings imported", many(total, "change"));
    }
    const cut = (text) => h("td", { class: "cut", title: text }, text);
    const line = (kind, look, domain, place, note) => row(badge(look, kind), cut(domain), cut(place), h("td", { class: "wrap" }, note));
    const target = (mapping) => `${mapping.internalHost}:${mapping.internalPort}`;
    const value = (v) => (v === null || v === undefined ? "nothing" : String(v));
    const rows = [
      ...faults.map((fault) => line("FAULT", "bad", fault.externalDomain ?? `entry ${fault.row}`, fault.field ?? "", fault.message)),
      ...added.map((one) => line("NEW", "good", one.externalDomain, target(one), one.description ?? "")),
      ...changed.map(({ before, after, fields }) => line("CHANGED", "warn", after.externalDomain, target(after), fields.map((field) => `${field}: ${value(before[field])} → ${value(after[field])}`).join("; "))),
      ...removed.map((one) => line("DELETED", "bad", one.externalDomain, target(one), one.description ?? "")),
    ];
    put(
      place,
      h("p", {}, h("strong", {}, faults.length > 0 ? "Nothing can be imported before this is mended. " : total === 0 ? "Nothing would change. " : "This would change: "),
        `${added.length} new, ${changed.length} changed, ${removed.length} deleted, ${count(report.unchanged ?? 0)} as they are${faults.length > 0 ? `, ${many(faults.length, "fault")}` : ""}.`),
      rows.length > 0 && table("what would change", ["What", "Domain", "Target", "Details"], rows),
    );
    apply.hidden = faults.length > 0 || total === 0;
    mark(apply, "disabled", apply.hidden);
    mark(apply, "class", removed.length > 0 ? "button danger" : "button primary");
    say(apply, removed.length > 0 ? `Import and delete ${removed.length}` : `Import ${many(total, "change")}`);
  }

  return panel(
    "Import",
    null,
    h("p", { id: "import-hint" }, "A file from “Export mappings”. You see what would change before anything does."),
    h("div", { class: "toolbar" }, h("label", { class: "hidden", for: "import-file" }, "File"), file, choice.element),
    place,
    actions(apply),
  );
}
