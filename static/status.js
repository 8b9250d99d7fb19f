// Shows how the tunnel is, as /health says, while the page is looked at.

const EVERY_MS = 5000;
const TEXTS = {
  healthy: "The tunnel to the Gateway is open.",
  degraded: "The Agent runs; the tunnel to the Gateway is not open.",
  away: "The Agent does not answer.",
};

async function look() {
  let state = "away";
  try {
    const answer = await fetch("/health", { cache: "no-store" });
    const { status } = await answer.json();
    if (status in TEXTS) state = status;
  } catch {
    // Stays "away": the next look tells when that is over.
  }
  document.getElementById("lamp").className = `lamp ${state}`;
  const text = document.getElementById("state");
  if (text.textContent !== TEXTS[state]) text.textContent = TEXTS[state];
}

look();
setInterval(() => {
  if (!document.hidden) look();
}, EVERY_MS);
