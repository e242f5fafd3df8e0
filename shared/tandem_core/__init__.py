"""All of Tandem's logic that is neither wire nor training: used alike by services, trainer and evaluation."""
