// What this browser keeps for the page: a choice of view, how long the session is good. Where it keeps nothing (storage
// switched off), the tab remembers.

const memory = new Map();

export function kept(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return memory.get(key) ?? null;
  }
}

/** Null forgets. */
export function keep(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    memory.set(key, value);
  }
}
