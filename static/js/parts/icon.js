// The few pictures of the page: strokes in a box of 24, drawn in the colour of the text beside them.

import { s } from "../dom.js";

const PATHS = {
  dashboard: "M4 13a8 8 0 1 1 16 0M12 13l4-4M4 13v4h16v-4",
  mappings: "M4 7h10M10 3l4 4-4 4M20 17H10M14 13l-4 4 4 4",
  requests: "M4 6h16M4 12h16M4 18h10",
  logs: "M5 3h14v18H5zM9 8h6M9 12h6M9 16h4",
  gateway: "M4 5h16v6H4zM4 13h16v6H4zM8 8h.01M8 16h.01",
  inspector: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l5 5",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.500v5M9 14.500v5",
  logout: "M10 4H5v16h5M15 8l4 4-4 4M19 12H9",
  menu: "M4 6h16M4 12h16M4 18h16",
  close: "M6 6l12 12M18 6L6 18",
  plus: "M12 5v14M5 12h14",
  check: "M5 12.500l4.500 4.500L19 7.500",
  warning: "M12 4L2.500 20h19zM12 10v4M12 17h.01",
  info: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 11v5M12 8h.01",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  open: "M14 4h6v6M20 4l-9 9M18 14v6H4V6h6",
  right: "M9 5l7 7-7 7",
  arrow: "M4 12h15M13 6l6 6-6 6",
  edit: "M4 20l1-5L16 4l4 4L9 19zM14 6l4 4",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l5 5",
  lock: "M6 11h12v9H6zM8 11V8a4 4 0 0 1 8 0v3",
  refresh: "M20 5v5h-5M4 19v-5h5M19 10a7.500 7.500 0 0 0-13.500-2M5 14a7.500 7.500 0 0 0 13.500 2",
  download: "M12 4v11M7 11l5 5 5-5M4 20h16",
  grid: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  table: "M4 5h16v14H4zM4 10h16M4 14.500h16M10 10v9",
  pause: "M8 5v14M16 5v14",
  play: "M7 5l12 7-12 7z",
  qr: "M4 4h6v6H4zM14 4h6v6h-6zM4 14h6v6H4zM14 14h2v2h-2zM18 18h2v2h-2zM18 14h2M14 18v2",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.500 1.500M17.500 17.500L19 19M19 5l-1.500 1.500M6.500 17.500L5 19",
  moon: "M20 14.500A8.500 8.500 0 1 1 9.500 4a7 7 0 0 0 10.500 10.500z",
  device: "M3 5h18v11H3zM8 20h8M12 16v4",
  bolt: "M13 3L5 14h6l-1 7 8-11h-6z",
};

/** A picture; what it means is said by the text or label of what it stands in. */
export const icon = (name, size = 18) =>
  s("svg", { class: "icon", viewBox: "0 0 24 24", width: size, height: size, "aria-hidden": "true" },
    s("path", { d: PATHS[name] }));
