// What several pages show of a mapping and do with it: its addresses, its state at the Gateway, its certificate.

import { patch, remove } from "../api.js";
import { h, press, put } from "../dom.js";
import { time } from "../format.js";
import { ask, dialog } from "./dialog.js";
import { copyButton } from "./copy.js";
import { icon } from "./icon.js";
import { badge, fact, quiet } from "./layout.js";
import { qrImage } from "./qr.js";
import { failed, toast } from "./toast.js";

/** Words for the states of a route; the first is a class. */
const ROUTES = {
  served: ["good", "SERVED", "The Gateway serves it."],
  synced: ["good", "SERVED", "The Gateway serves it."],
  pending: ["warn", "PENDING", "The Gateway has not confirmed it yet."],
  conflict: ["bad", "CONFLICT", "Somebody else has this domain at the Gateway."],
  invalid: ["bad", "INVALID", "The Gateway cannot use it."],
  rejected: ["bad", "REJECTED", "Caddy has rejected it."],
  off: ["off", "OFF", "It is switched off."],
  unknown: ["off", "UNKNOWN", "No Gateway is connected."],
};

export function routeOf(mapping) {
  if (!mapping.enabled) return { look: "off", word: "OFF", text: ROUTES.off[2] };
  const [look, word, text] = ROUTES[mapping.routeState] ?? ["bad", "NOT USED", mapping.routeState ?? "Its state is not known."];
  return { look, word, text: mapping.routeError ?? text };
}

export function routeBadge(mapping) {
  const { look, word, text } = routeOf(mapping);
  return h("span", { class: `badge badge-${look}`, title: text }, word);
}

const CERTIFICATES = { ok: ["good", "Valid"], warning: ["warn", "Look at it"], error: ["bad", "Broken"], unknown: ["off", "Not known"] };

export function certificateBadge(certificate) {
  const [look, word] = CERTIFICATES[certificate?.state] ?? CERTIFICATES.unknown;
  return badge(look, word.toUpperCase());
}

export const publicUrl = (mapping) => `https://${mapping.externalDomain ?? ""}`;

export function internalUrl(mapping) {
  const host = mapping.internalHost ?? "";
  const inside = host.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
  return `${mapping.internalUseTls ? "https" : "http"}://${inside}:${mapping.internalPort ?? ""}`;
}

/** A text that may be broken after each of its parts, not in the middle of one. */
export const breakable = (text) => text.split(/(?<=[/.:])(?=[^/.:])/).map((part) => [part, h("wbr", {})]);

/** A wildcard is no address that can be opened. */
const isWildcard = (mapping) => !/^[^*]/.test(mapping.externalDomain);

/** Copy, open and QR code of a public address. */
export function addressActions(mapping) {
  const url = publicUrl(mapping);
  return h(
    "div",
    { class: "actions" },
    copyButton("Copy", () => url),
    !isWildcard(mapping) && [
      h("a", { class: "button small", href: url, target: "_blank", rel: "noopener noreferrer" }, icon("open", 15), "Open"),
      press("small", { onclick: () => showQr(url) }, icon("qr", 15), "QR code"),
    ],
  );
}

const showQr = (url) =>
  dialog({ title: "Open on another device" }, () =>
    h("div", { class: "modal-body qr-body" }, qrImage(url), h("p", { class: "data" }, url)),
  );

/** Asks, and deletes. Resolves to whether it is gone. */
export async function deleteMapping(mapping) {
  const gone = await ask({
    title: "Delete Mapping",
    text: `Delete “${mapping.name}”? Visitors of ${mapping.externalDomain} stop reaching it at once.`,
    confirm: "Delete",
    danger: true,
    run: () => remove(`/mappings/${mapping.id}`),
  });
  if (gone) toast("success", "Mapping deleted", mapping.externalDomain);
  return gone;
}

/** Switches on or off. Resolves to the mapping as it is now, null when that failed. */
export async function setEnabled(mapping, enabled) {
  try {
    const now = await patch(`/mappings/${mapping.id}/toggle`, { enabled });
    toast("success", enabled ? "Mapping enabled" : "Mapping disabled", mapping.externalDomain, { key: mapping.id });
    return now;
  } catch (error) {
    failed("Update failed", error);
    return null;
  }
}

/** The facts of a certificate. */
export function certificateFacts(place, certificate) {
  if (!certificate) return put(place, quiet("Nobody has looked at it yet."));
  put(
    place,
    certificate.error && h("p", { class: certificate.state === "unknown" ? "quiet" : "problem" }, certificate.error),
    certificate.issuer && fact("Issuer", certificate.issuer),
    certificate.names?.length > 0 && fact("Names", certificate.names.join(", ")),
    certificate.notAfter && fact("Valid until", time(certificate.notAfter, "date"), typeof certificate.daysLeft === "number" && ` (${certificate.daysLeft} days)`),
    certificate.checkedAt && fact("Checked", time(certificate.checkedAt, "ago")),
  );
}
