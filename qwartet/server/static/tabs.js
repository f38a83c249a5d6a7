// Finds out whether another tab is generating an unfinished answer: tabs ask each other, and closed ones stay silent.

const PATIENCE_MS = 1500;

export class Tabs {
  #channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("qwartet");
  #waiting = new Map(); // turn id -> called when a tab reports that it generates the turn

  /** `isMaking(turnId)`: does this tab generate the turn? `onStop(turnId)`: another tab asks to stop. */
  constructor({ isMaking, onStop }) {
    this.#channel?.addEventListener("message", ({ data }) => {
      if (data.isAlive) this.#waiting.get(data.isAlive)?.();
      else if (!isMaking(data.ask ?? data.stop)) return;
      else if (data.ask) this.#channel.postMessage({ isAlive: data.ask });
      else onStop(data.stop);
    });
  }

  /** Does another tab generate the turn? */
  isMaking(turnId) {
    return new Promise((resolve) => {
      const answer = (isAlive) => {
        this.#waiting.delete(turnId);
        resolve(isAlive);
      };
      this.#waiting.set(turnId, () => answer(true));
      setTimeout(() => answer(false), PATIENCE_MS); // no effect after an answer
      this.#channel?.postMessage({ ask: turnId });
    });
  }

  /** Asks the tab that generates the turn to stop. */
  stop(turnId) {
    this.#channel?.postMessage({ stop: turnId });
  }
}
