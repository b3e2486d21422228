from luigi.parameter import *
import luigi.parameter as _p
__all__=[n for n in dir(_p) if n.endswith("Parameter")]
