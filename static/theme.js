// Sets the theme before anything is painted; the switch in the sidebar calls it again. Not a module, because those
// run after the first paint.
(() => {
  const light = matchMedia("(prefers-color-scheme: light)");
  const wish = () => {
    try {
      return localStorage.getItem("octoporty_theme") ?? "auto";
    } catch {
      return "auto"; // Storage is switched off: follow the system.
    }
  };
  const apply = () => {
    const theme = wish() === "auto" ? (light.matches ? "light" : "dark") : wish();
    document.documentElement.dataset.theme = theme === "light" ? "light" : "dark";
  };
  light.addEventListener("change", apply);
  addEventListener("storage", apply);
  addEventListener("octoporty-theme", apply);
  apply();
})();
