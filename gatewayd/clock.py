"""The real clock: `ports.Clock` as the machine has it. Wall time goes into data, monotonic time into decisions."""

import asyncio
import time


class SystemClock:
    """Time of this machine."""

    def now(self) -> float:
        """Seconds since the epoch. Jumps when the clock is set."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait; 0 lets others run."""
        await asyncio.sleep(seconds)
