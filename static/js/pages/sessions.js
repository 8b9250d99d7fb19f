// Who is logged in, and ending that.

import { ApiError, get, post, remove } from "../api.js";
import { every, h, keyed, press, say } from "../dom.js";
import { setTime, time } from "../format.js";
import { ask, busy } from "../parts/dialog.js";
import { badge, panel, row, table } from "../parts/layout.js";
import { settings } from "../parts/settings.js";
import { failed, toast } from "../parts/toast.js";
import { ended } from "../session.js";

/** "Firefox on Linux" of what a browser says about itself. */
export function browser(text) {
  if (!text) return "Unknown program";
  const found = (list) => list.find(([pattern]) => pattern.test(text))?.[1];
  const program = found([[/Edg\//, "Edge"], [/OPR\//, "Opera"], [/Firefox\//, "Firefox"], [/Chrome\/|CriOS/, "Chrome"], [/Safari\//, "Safari"], [/curl\//, "curl"]]);
  const system = found([[/Android/, "Android"], [/iPhone|iPad/, "iOS"], [/Windows/, "Windows"], [/Mac OS X/, "macOS"], [/Linux/, "Linux"]]);
  if (!program) return text.slice(0, 60);
  return system ? `${program} on ${system}` : program;
}

export function page({ signal }) {
  const rows = h("tbody", {});
  const all = press("danger", {}, "Log out everywhere");
  all.addEventListener("click", async () => {
    const sure = await ask({
      title: "Log out everywhere?",
      text: "Every browser and program that is logged in has to log in again, this one too.",
      confirm: "Log out everywhere",
      danger: true,
      run: () => post("/auth/logout-all"),
    });
    if (sure) ended();
  });

  const paint = keyed(rows, (one) => one.id, (one) => {
    const end = press("small", { "aria-label": `End the session of ${browser(one.userAgent)} at ${one.address ?? "an unknown address"}` }, "End");
    end.addEventListener("click", async () => {
      try {
        await busy(end, "Ending…", () => remove(`/auth/sessions/${one.id}`));
        toast("success", "Session ended", browser(one.userAgent));
        if (one.current) return ended();
      } catch (error) {
        failed("The session could not be ended", error);
      }
      load();
    });
    const name = h("td", { title: one.userAgent }, browser(one.userAgent), " ", one.current && badge("good", "THIS ONE"));
    const [address, used, expires] = [h("td", {}), time(null), time(null)];
    return {
      element: row(name, address, time(one.createdAt), used, expires, end),
      update(now) {
        say(address, now.address ?? "–");
        setTime(used, now.usedAt, "ago");
        setTime(expires, now.expiresAt);
      },
    };
  });

  async function load() {
    try {
      paint(await get("/auth/sessions", signal));
    } catch (error) {
      if (!ApiError.gone(error) && !rows.hasChildNodes()) failed("Failed to load the sessions", error);
    }
  }
  load();
  every(10_000, load, signal);
  const list = table("sessions", ["Browser", "Address", "Logged in", "Last renewed", "Ends", "Action"], rows, "acts");
  return settings("/settings/sessions", "Who is logged in to this Agent", all, panel("Sessions", null, list));
}
