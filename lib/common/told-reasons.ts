/** How many reasons are told. */
const MOST = 5;

/** Why something fails that is tried again and again: each reason is told once, until it works again. */
export class ToldReasons {
  private readonly told = new Set<string>();

  /** Whether to tell it. Two reasons may take turns, and one may have a pid in it, a new one each time. */
  isNew(reason: string): boolean {
    if (this.told.has(reason) || this.told.size === MOST) return false;
    this.told.add(reason);
    return true;
  }

  /** It works. Answers whether it has failed before. */
  forget(): boolean {
    const hasFailed = this.told.size > 0;
    this.told.clear();
    return hasFailed;
  }
}
