"""Checks a data folder: hashes, record CRCs, index, and that every record decodes; draws a contact sheet.

    python data_tools/verify_tfrecords.py --data_dir=data/glasses --contact_sheet=glasses.png

Exit status 0: all is well; 2: the first fault, in one line on stderr.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a checkout that is not installed
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow only reads records here

from absl import app, flags

from tfaclgan.errors import UserError, run_command

FLAGS = flags.FLAGS

flags.DEFINE_string("data_dir", None, "The data folder to check.")
flags.DEFINE_string("contact_sheet", "", "Write a PNG with some images of each split to this file; empty: none.")
flags.DEFINE_integer("columns", 12, "Images of each split on the contact sheet.")
flags.DEFINE_integer("cell", 96, "Side of an image on the contact sheet, pixels.")


def main(arguments: list[str]) -> None:
    """Checks the folder that the flags name."""

    def command() -> None:
        from tqdm import tqdm

        from tfaclgan.data import verify

        if len(arguments) > 1 or not FLAGS.data_dir:
            raise UserError("--data_dir is needed, and nothing but flags; --help lists them")
        if FLAGS.columns < 1 or FLAGS.cell < 8:
            raise UserError("--columns is at least 1, --cell at least 8 pixels")
        with tqdm(unit=" records", disable=None) as progress:
            manifest = verify.verify(FLAGS.data_dir, progress.update)
        print("\n".join(verify.summary(manifest)))
        if FLAGS.contact_sheet:
            verify.contact_sheet(manifest, columns=FLAGS.columns, cell=FLAGS.cell).save(FLAGS.contact_sheet, "PNG")
            print(f"contact sheet: {FLAGS.contact_sheet}")
        print("all records are sound")

    sys.exit(run_command(command, "verify_tfrecords"))


if __name__ == "__main__":
    app.run(main)
