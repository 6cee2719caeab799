"""A run that waits in the midst of its training until what it waits for has come, however busy the machine is."""

# Code for `child`: the trainer waits before step HELD_AT + 1 for a signal, or for a file that fits the pattern UNTIL.
HELD = """
import glob, time
from swwae_zoo.training.trainer import Trainer
real_step = Trainer.train_step
def train_step(self):
    while self.step == HELD_AT and not self.interrupt and not glob.glob(UNTIL):
        time.sleep(0.005)
    return real_step(self)
Trainer.train_step = train_step
"""
