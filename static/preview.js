// Shows the HTML that the editor sends. This page has a policy of its own: it belongs to no origin, runs no script but
// this one, and loads nothing from elsewhere; styles within the HTML are allowed, because they are what is looked at.
addEventListener("message", (event) => {
  if (event.source !== parent || typeof event.data?.html !== "string") return;
  // A document made this way does not run its scripts.
  const page = new DOMParser().parseFromString(event.data.html, "text/html");
  // Would lead away from the preview.
  for (const refresh of page.querySelectorAll("meta[http-equiv]")) refresh.remove();
  document.replaceChild(document.adoptNode(page.documentElement), document.documentElement);
});
addEventListener("click", (event) => event.preventDefault(), true);
addEventListener("submit", (event) => event.preventDefault(), true);
