// Is an answer that is not complete being made in another tab? The tabs ask each other; one that is gone is silent.

const PATIENCE_MS = 1500;

export class Tabs {
  #channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("qwartet");
  #waiting = new Map(); // turn id -> what to call when a tab says that it makes it

  /** `isMaking(turnId)` says so of this tab; `onStop(turnId)`: another tab asks to stop. */
  constructor({ isMaking, onStop }) {
    this.#channel?.addEventListener("message", ({ data }) => {
      if (data.isAlive) this.#waiting.get(data.isAlive)?.();
      else if (!isMaking(data.ask ?? data.stop)) return;
      else if (data.ask) this.#channel.postMessage({ isAlive: data.ask });
      else onStop(data.stop);
    });
  }

  /** Whether another tab makes the turn. */
  isMaking(turnId) {
    return new Promise((resolve) => {
      const answer = (isAlive) => {
        this.#waiting.delete(turnId);
        resolve(isAlive);
      };
      this.#waiting.set(turnId, () => answer(true));
      setTimeout(() => answer(false), PATIENCE_MS); // without effect after an answer
      this.#channel?.postMessage({ ask: turnId });
    });
  }

  /** Asks the tab that makes the turn to stop. */
  stop(turnId) {
    this.#channel?.postMessage({ stop: turnId });
  }
}
