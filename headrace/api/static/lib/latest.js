// What is shown is what was asked for last: an answer that comes after a newer question, or after its failure, is dropped.

// Returns `ask()`, to be called before each request; what it returns says whether that request is still the newest.
export function latest() {
  let asked = 0;
  return () => {
    const mine = (asked += 1);
    return () => mine === asked;
  };
}
